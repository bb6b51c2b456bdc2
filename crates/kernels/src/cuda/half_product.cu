// y = x w^T for half floats, on the tensor cores of Hopper.
//
// The host defines
//   OUT      element of all three: __nv_bfloat16 or __half
//   BN       columns of a tile: 64, 128, 192 or 256
//   STAGES   tiles of both inputs that are on their way or in use
//   ACTIVATION, HAS_BIAS  what follows the product; BIAS, the element of the bias
// and puts tensor_tiles.cu, in whose layout both inputs are, in front.
//
// One group of 128 threads loads, two multiply, each 64 rows of a tile.

struct Info {
    u64 rows;     // of x
    u64 columns;  // of y
    u64 blocks;   // of 64 elements in a row
    u64 stride;   // from a row of y to the next, in elements
};

extern "C" __global__ void __launch_bounds__(128 * (CONSUMERS + 1), 1) half_product(
    const char* __restrict__ x, const char* __restrict__ w,
#if HAS_BIAS
    const BIAS* __restrict__ bias,
#endif
    OUT* __restrict__ y, const __grid_constant__ Info info) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const u32 base = shared_address(memory);
    constexpr u32 KEPT = STAGES * STAGE + CONSUMERS * 4 * OUT_BYTES;
    const u32 full = base + KEPT + Columns<float>::BYTES, empty = full + STAGES * 8;
    const u32 rows = info.rows, columns = info.columns, blocks = info.blocks;
    const u32 tiles_m = (rows + BM - 1) / BM, tiles_n = (columns + BN - 1) / BN;
    const u32 units = tiles_m * tiles_n;
    const u32 group = threadIdx.x / 128;

    if (threadIdx.x == 0) begin_barriers(full, empty);
    __syncthreads();

    if (group == CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x % 128 == 0) load_tiles(x, w, rows, columns, blocks, base, full, empty);
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const bool aligned = info.stride * sizeof(OUT) % 16 == 0 && reinterpret_cast<u64>(y) % 16 == 0;
    unsigned char* out = memory + STAGES * STAGE + threadIdx.x / 32 * OUT_BYTES;
    SUM sum[BN / 2];
    Columns<float> bias_of(memory + KEPT, group);
    u32 stage = 0, phase = 0;
    for (u32 unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const Tile tile = tile_of(unit, tiles_m, tiles_n);
#if HAS_BIAS
        // It is on its way while the tensor cores work.
        bias_of.load([&](u32 i) { return to_float(bias[min(tile.n * BN + i, columns - 1)]); });
#endif
        multiply(sum, blocks, base, full, empty, stage, phase);
#if HAS_BIAS
        const float* const added_of = bias_of.share(group);
#endif

        // A thread has two neighbouring columns of every eight, in two rows eight apart.
        const u32 first_row = tile.m * BM + group * 64 + warp * 16;
#pragma unroll
        for (u32 piece = 0; piece < BN / PIECE; piece++) {
            const u32 left = tile.n * BN + piece * PIECE;
            if (left >= columns) break;
#pragma unroll
            for (u32 j = 0; j < PIECE / 8; j++) {
                float2 added = {};
#if HAS_BIAS
                added = *reinterpret_cast<const float2*>(added_of + piece * PIECE + j * 8 + lane % 4 * 2);
#endif
#pragma unroll
                for (u32 h = 0; h < 2; h++) {
                    float value[2];
#pragma unroll
                    for (u32 i = 0; i < 2; i++)
                        value[i] = activation<OUT>(sum[(piece * (PIECE / 8) + j) * 4 + h * 2 + i] + (i ? added.y : added.x));
                    store_pair(reinterpret_cast<OUT*>(place_of(out, lane / 4 + h * 8, j * 8 + lane % 4 * 2)), value);
                }
            }
            store_rows(out, y, info.stride, aligned, first_row, rows, left, columns);
        }
    }
}
