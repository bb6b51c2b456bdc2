// y = (codes of x) (codes of w)^T, dequantized: int8 by int8 into int32 on the tensor cores of Hopper.
//
// Compiled once for each variant; the host defines
//   BN       columns of a tile: 64, 128, 192 or 256
//   STAGES   tiles of both inputs that are on their way or in use
//   OUT      element of y: float, __nv_bfloat16 or __half
//   ACTIVATION, HAS_BIAS, HAS_SHIFT  what follows the product; BIAS, the element of the bias
// and puts tensor_tiles.cu, in whose layout both inputs are, in front.
//
// One group of 128 threads loads, two multiply, each 64 rows of a tile.

struct Info {
    u64 rows;     // of x
    u64 columns;  // of y
    u64 blocks;   // of 128 codes in a row
    u64 stride;   // from a row of y to the next, in elements
};

// What a column's sums are multiplied with, and what is added.
struct alignas(HAS_SHIFT ? 16 : 8) Column {
    float scale, bias;
#if HAS_SHIFT
    float sum;
#endif
};

extern "C" __global__ void __launch_bounds__(128 * (CONSUMERS + 1), 1) int8_product(
    const char* __restrict__ x, const char* __restrict__ w, const float* __restrict__ row_scale,
    const float* __restrict__ column_scale,
#if HAS_SHIFT
    const float* __restrict__ row_shift, const float* __restrict__ column_sum,
#endif
#if HAS_BIAS
    const BIAS* __restrict__ bias,
#endif
    OUT* __restrict__ y, const __grid_constant__ Info info) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const u32 base = shared_address(memory);
    constexpr u32 KEPT = STAGES * STAGE + CONSUMERS * 4 * OUT_BYTES;
    const u32 full = base + KEPT + Columns<Column>::BYTES, empty = full + STAGES * 8;
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
    Columns<Column> columns_of(memory + KEPT, group);
    u32 stage = 0, phase = 0;
    for (u32 unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const Tile tile = tile_of(unit, tiles_m, tiles_n);
        // What comes from memory is on its way while the tensor cores work.
        columns_of.load([&](u32 i) {
            const u32 c = min(tile.n * BN + i, columns - 1);
            Column column = {column_scale[c], 0.0f};
#if HAS_SHIFT
            column.sum = column_sum[c];
#endif
#if HAS_BIAS
            column.bias = to_float(bias[c]);
#endif
            return column;
        });
        // A thread has two neighbouring columns of every eight, in two rows eight apart.
        const u32 first_row = tile.m * BM + group * 64 + warp * 16;
        float scale[2];
#if HAS_SHIFT
        float shift[2];
#endif
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 row = min(first_row + lane / 4 + half * 8, rows - 1);
            scale[half] = row_scale[row];
#if HAS_SHIFT
            shift[half] = row_shift[row];
#endif
        }
        multiply(sum, blocks, base, full, empty, stage, phase);
        const Column* const column_of = columns_of.share(group);
#pragma unroll
        for (u32 piece = 0; piece < BN / PIECE; piece++) {
            const u32 left = tile.n * BN + piece * PIECE;
            if (left >= columns) break;
#pragma unroll
            for (u32 j = 0; j < PIECE / 8; j++) {
                struct alignas(2 * sizeof(Column)) Pair {
                    Column of[2];
                };
                const Pair column = *reinterpret_cast<const Pair*>(column_of + piece * PIECE + j * 8 + lane % 4 * 2);
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    float value[2];
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        const int s = sum[(piece * (PIECE / 8) + j) * 4 + half * 2 + i];
                        float v = static_cast<float>(s) * (scale[half] * column.of[i].scale);
#if HAS_SHIFT
                        v += shift[half] * column.of[i].sum;
#endif
#if HAS_BIAS
                        v += column.of[i].bias;
#endif
                        value[i] = activation<OUT>(v);
                    }
                    store_pair(reinterpret_cast<OUT*>(place_of(out, lane / 4 + half * 8, j * 8 + lane % 4 * 2)), value);
                }
            }
            store_rows(out, y, info.stride, aligned, first_row, rows, left, columns);
        }
    }
}
