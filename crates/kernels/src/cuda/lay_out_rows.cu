// Rows of half floats in the blocks that half_product reads.
//
// The host defines T, their element.

struct Info {
    u64 rows, columns;
    u64 blocks;  // of 64 columns in a row
    u64 stride;  // from a row of x to the next, in elements
};

extern "C" __global__ void __launch_bounds__(256) lay_out_rows(const T* __restrict__ x, char* __restrict__ laid_out,
                                                               const __grid_constant__ Info info) {
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x;
    const u32 chunks = info.blocks * 8, columns = info.columns;
    const u32 row = at / chunks, chunk = at % chunks, first = chunk * 8;
    if (row >= info.rows) return;
    const T* from = x + row * info.stride + first;
    alignas(16) T value[8];
    if (first + 8 <= columns && reinterpret_cast<u64>(from) % 16 == 0) {
        *reinterpret_cast<uint4*>(value) = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++) value[i] = first + i < columns ? from[i] : from_float<T>(0.0f);
    }
    char* block = laid_out + (row / 64 * info.blocks + chunk / 8) * (64 * 128);
    *reinterpret_cast<uint4*>(block + row % 64 * 128 + ((chunk % 8) ^ (row % 8)) * 16) = *reinterpret_cast<const uint4*>(value);
}
