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
struct Column {
    float scale, sum, bias;
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
    const u32 full = base + STAGES * STAGE + CONSUMERS * 4 * OUT_BYTES, empty = full + STAGES * 8;
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
    u32 stage = 0, phase = 0;
    for (u32 unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const Tile tile = tile_of(unit, tiles_m, tiles_n);
        multiply(sum, blocks, base, full, empty, stage, phase);

        // A thread has two neighbouring columns of every eight, in two rows eight apart.
        const u32 first_row = tile.m * BM + group * 64 + warp * 16;
        const u32 row[2] = {first_row + lane / 4, first_row + lane / 4 + 8};
        float scale[2];
#if HAS_SHIFT
        float shift[2];
#endif
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            scale[half] = row[half] < rows ? row_scale[row[half]] : 0.0f;
#if HAS_SHIFT
            shift[half] = row[half] < rows ? row_shift[row[half]] : 0.0f;
#endif
        }
#pragma unroll
        for (u32 piece = 0; piece < BN / PIECE; piece++) {
            const u32 left = tile.n * BN + piece * PIECE;
            if (left >= columns) break;
#pragma unroll
            for (u32 j = 0; j < PIECE / 8; j++) {
                const u32 c = left + j * 8 + lane % 4 * 2;
                Column column[2] = {};
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    // The host rounds the lengths of its own arrays up.
                    column[i].scale = column_scale[c + i];
#if HAS_SHIFT
                    column[i].sum = column_sum[c + i];
#endif
#if HAS_BIAS
                    column[i].bias = to_float(bias[min(c + i, columns - 1)]);
#endif
                }
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    float value[2];
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        const int s = sum[(piece * (PIECE / 8) + j) * 4 + half * 2 + i];
                        float v = static_cast<float>(s) * (scale[half] * column[i].scale);
#if HAS_SHIFT
                        v += shift[half] * column[i].sum;
#endif
#if HAS_BIAS
                        v += column[i].bias;
#endif
                        value[i] = activation(v);
                    }
                    OUT* at = reinterpret_cast<OUT*>(out + (lane / 4 + half * 8) * PITCH) + j * 8 + lane % 4 * 2;
                    store_pair(at, value);
                }
            }
            store_rows(out, y, info.stride, aligned, first_row, rows, left, columns);
        }
    }
}
