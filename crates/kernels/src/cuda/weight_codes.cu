// The codes of a packed weight as signed bytes, in the blocks that int8_product reads, and what each row of them sums to.
//
// The host defines
//   SCALE   element of the scales
//   BITS    of a code, 1 to 8
//   BINARY  whether the one bit stands for -1 or 1; otherwise half of the codes' range is subtracted

struct Info {
    u64 rows, columns;
    u64 blocks;  // of 128 codes in a row
    u64 stride;        // from a row of words to the next
    u64 scale_stride;  // from the scale of a row to that of the next
};

DEVICE int code_at(const u32* words, u32 column) {
    const u32 bit = column * BITS, word = bit / 32, shift = bit % 32;
    u64 both = words[word];
    if (shift + BITS > 32) both |= static_cast<u64>(words[word + 1]) << 32;
    const int code = static_cast<int>(both >> shift) & ((1 << BITS) - 1);
    return BINARY ? 2 * code - 1 : code - (1 << (BITS - 1));
}

extern "C" __global__ void __launch_bounds__(128) weight_codes(
    const u32* __restrict__ words, const SCALE* __restrict__ scale, char* __restrict__ codes,
    float* __restrict__ column_scale, float* __restrict__ column_sum, const __grid_constant__ Info info) {
    const u32 member = threadIdx.x % 32, columns = info.columns, blocks = info.blocks;
    const u64 row = u64(blockIdx.x) * 4 + threadIdx.x / 32;
    if (row >= info.rows) return;
    char* panel = codes + row / 64 * blocks * (64 * 128) + row % 64 * 128;
    int sum = 0;
    for (u32 chunk = member; chunk < blocks * 8; chunk += 32) {
        alignas(16) signed char code[16];
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            const u32 column = chunk * 16 + i;
            const int value = column < columns ? code_at(words + row * info.stride, column) : 0;
            code[i] = static_cast<signed char>(value);
            sum += value;
        }
        const u32 place = (chunk % 8) ^ (row % 8);
        *reinterpret_cast<uint4*>(panel + chunk / 8 * (64 * 128) + place * 16) = *reinterpret_cast<const uint4*>(code);
    }
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (member == 0) {
        column_scale[row] = to_float(scale[row * info.scale_stride]);
        column_sum[row] = static_cast<float>(sum) * column_scale[row];
    }
}
