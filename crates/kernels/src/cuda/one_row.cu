// y = x w^T for up to four rows of half floats and a packed weight, by integers: codes are multiplied where they lie in their
// bytes, so that a code costs no more than its share of a mask.
//
// The host defines
//   T          element of x and y: __nv_bfloat16 or __half
//   SCALE, BIAS  elements of the scales and zeros, and of the bias
//   BITS       of a code: 1, 2, 4 or 8
//   DEPTH      steps whose words a warp has on their way at once
//   WARPS, RESIDENT  of a block, and blocks that share a multiprocessor
//   OUTPUTS    of a tile by 16
//   SPAN       steps that share a scale, or 0 where a row has one
//   MANY       whether a block may compute several tiles
//   BINARY, HAS_ZERO, HAS_BIAS, ACTIVATION
// and puts halves.cu and one_row_inputs.cu in front.
//
// A byte holds 8 / BITS codes. Those at one place in their bytes are multiplied together, masked and not shifted, and what
// their place multiplies them with is taken off their sum. A step is 64 bytes of a row of codes; the warps of a block share
// the steps of a tile. Tensor cores multiply eight columns: a row of x takes two of them, one for each byte of its inputs.

constexpr u32 OUT = 16 * OUTPUTS;         // of a tile
constexpr float EXCESS = BINARY ? 0.5f : MIDDLE;

// Sums begin at 2^23 + 2^22: as floats, they are sums that are added to it. None has more than 22 bits.
constexpr u32 BEGIN = 0x4b400000;
DEVICE float float_of(u32 sum) { return __uint_as_float(sum) - 12582912.0f; }

DEVICE void multiply(u32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A step of a tile's outputs, on its way. A thread has outputs eight apart.
struct Ahead {
    uint4 packed[2 * OUTPUTS];
    RawScale factor[2 * OUTPUTS];
#if HAS_ZERO
    RawScale zero[2 * OUTPUTS];
#endif

    // Sums of products with the lower and the upper bytes, for two outputs eight apart.
    DEVICE void times(const unsigned char* bytes, u32 (&part)[PLACES][OUTPUTS][4]) const {
        constexpr u32 MASK = ((1u << BITS) - 1) * 0x01010101u;
#pragma unroll
        for (u32 p = 0; p < PLACES; p++) {
            const uint4 b = *reinterpret_cast<const uint4*>(bytes + p * 64);
            const u32 mask = BITS == 8 ? ~0u : MASK << (BITS * p);
#pragma unroll
            for (u32 o = 0; o < OUTPUTS; o++) {
                const uint4 low = packed[2 * o], high = packed[2 * o + 1];
#pragma unroll
                for (u32 k = 0; k < 4; k++) part[p][o][k] = BEGIN;
                multiply(part[p][o], low.x & mask, high.x & mask, low.y & mask, high.y & mask, b.x, b.y);
                multiply(part[p][o], low.z & mask, high.z & mask, low.w & mask, high.w & mask, b.z, b.w);
            }
        }
    }
};

// Which step of which tile a warp loads next, and where the tile's outputs begin.
struct Next {
    u32 tile, step;
    const uint4* words[2 * OUTPUTS];
    u32 scales[2 * OUTPUTS];

    DEVICE void begin(u32 of_tile, u32 first_step, const u32* of_words, const Info& info) {
        tile = of_tile, step = first_step;
#pragma unroll
        for (u32 h = 0; h < 2 * OUTPUTS; h++) {
            const u32 outputs = info.outputs, output = min(tile * OUT + threadIdx.x % 32 / 4 + h * 8, outputs - 1);
            words[h] = reinterpret_cast<const uint4*>(of_words + output * info.word_stride) + threadIdx.x % 4;
            asm volatile("" : "+l"(words[h]));  // Stays in its registers.
            scales[h] = output * static_cast<u32>(info.scale_stride);
        }
    }
};

// The float that two sums are together, over all places of codes.
DEVICE float total_of(const u32 (&part)[PLACES][OUTPUTS][4], u32 h, float upper) {
    float v;
#pragma unroll
    for (u32 p = PLACES; p-- > 0;) {
        const u32* both = part[p][h / 2] + h % 2 * 2;
        const float whole = QUANTIZED && !SHIFTED ? float_of(both[1]) : fmaf(float_of(both[0]), upper, float_of(both[1]));
        v = p + 1 == PLACES ? whole : fmaf(v, 1.0f / (1u << BITS), whole);
    }
    return v;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) one_row(
    const T* __restrict__ x, const u32* __restrict__ words, const SCALE* __restrict__ scale,
#if HAS_ZERO
    const SCALE* __restrict__ zero,
#endif
#if HAS_BIAS
    const BIAS* __restrict__ bias,
#endif
    T* __restrict__ y, const __grid_constant__ Info info) {
    extern __shared__ __align__(16) unsigned char shared[];
    // The shuffle says that it is one for all threads of a warp.
    const u32 lane = threadIdx.x % 32, warp = __shfl_sync(~0u, threadIdx.x / 32, 0), quad = lane / 4, member = lane % 4;
    const u32 rows = info.rows, outputs = info.outputs, tiles = (outputs + OUT - 1) / OUT;
    const Inputs inputs(shared, info);
    const u32 steps = inputs.steps;

    // Inputs come first, or they would wait behind the words; those are on their way while inputs become bytes.
    fetch(inputs, x, info, warp);
    Next next;
    next.begin(blockIdx.x, warp, words, info);
    const auto load = [&](Ahead& to) {
        if ((MANY && next.tile >= tiles) || next.step >= steps) return;
        const u32 group = SPAN ? next.step / max(SPAN, 1) : 0;
#pragma unroll
        for (u32 h = 0; h < 2 * OUTPUTS; h++) to.packed[h] = load_words(next.words[h] + next.step * 4);
#pragma unroll
        for (u32 h = 0; h < 2 * OUTPUTS; h++) {
            to.factor[h] = load_scale(scale + next.scales[h] + group);
#if HAS_ZERO
            to.zero[h] = load_scale(zero + next.scales[h] + group);
#endif
        }
        next.step += WARPS;
        if (MANY && next.step >= steps) next.begin(next.tile + gridDim.x, warp, words, info);
    };
    Ahead ahead[DEPTH];
#pragma unroll
    for (u32 d = 0; d < DEPTH; d++) load(ahead[d]);
    to_bytes(inputs, info, warp);
    __syncthreads();

    // A thread has one row of x.
    const u32 row = min(member, rows - 1);
    const unsigned char* bytes = inputs.bytes + (quad % (2 * rows)) * inputs.stride + member * 16;
    const float2* of_row = inputs.of_step + row * steps;
    const float upper = SHIFTED ? inputs.of_row[row].upper : 256.0f;
    u32 parts_at = info.parts;
    float sum[2 * OUTPUTS] = {};
    for (u32 tile = blockIdx.x, step = warp; !MANY || tile < tiles;) {
#pragma unroll
        for (u32 d = 0; d < DEPTH; d++) {
            if (MANY && tile >= tiles) break;
            if (step < steps) {
                u32 part[PLACES][OUTPUTS][4];
                ahead[d].times(bytes + step * STEP, part);
                const float2 by = of_row[step];
#pragma unroll
                for (u32 h = 0; h < 2 * OUTPUTS; h++) {
                    const float v = fmaf(total_of(part, h, upper), by.x, -EXCESS * by.y);
                    sum[h] = fmaf(v, ahead[d].factor[h].value(), sum[h]);
#if HAS_ZERO
                    sum[h] = fmaf(ahead[d].zero[h].value(), by.y, sum[h]);
#endif
                }
                load(ahead[d]);
            }
            step += WARPS;
            if (step < steps) continue;
            // The sums of the warps.
            float* parts = reinterpret_cast<float*>(shared + parts_at);
#pragma unroll
            for (u32 h = 0; h < 2 * OUTPUTS; h++) {
                if (member < rows) parts[(warp * rows + member) * OUT + quad + h * 8] = sum[h];
                sum[h] = 0.0f;
            }
            __syncthreads();
#pragma unroll 1
            for (u32 i = threadIdx.x; i < rows * OUT; i += 32 * WARPS) {
                const u32 of = i / OUT, o = tile * OUT + i % OUT;
                if (o >= outputs) continue;
                float v = 0.0f;
#pragma unroll
                for (u32 w = 0; w < WARPS; w++) v += parts[w * rows * OUT + i];
                v *= BINARY ? 2.0f : 1.0f;
#if HAS_BIAS
                v += to_float(bias[o]);
#endif
                y[of * info.y_stride + o] = from_float<T>(activation<T>(v));
            }
            if (!MANY) return;
            // Those of a tile and of the next one lie apart: a warp may be there while another still reads.
            parts_at = 2 * static_cast<u32>(info.parts) + info.part_bytes - parts_at;
            tile += gridDim.x, step = warp;
        }
    }
}
