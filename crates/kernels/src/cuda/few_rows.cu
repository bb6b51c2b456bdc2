// y = x w^T for a few rows of half floats and a packed weight: as fast as the packed words come from memory. Tensor cores
// multiply, so that a code costs little more than being put into a half float.
//
// The host defines
//   T, T_NAME  element of x and y: __nv_bfloat16 or __half; what the instruction calls it
//   SCALE, BIAS  elements of the scales and zeros, and of the bias
//   BITS       of a code: 1, 2, 4 or 8
//   PAIRED     whether two codes fit into two half floats at once
//   CHUNKS     steps whose words and inputs a warp has on their way at once
//   WARPS, RESIDENT  of a block, and blocks that share a multiprocessor
//   OUTPUTS    of a block by 16
//   TILES      of eight rows of x; blocks that differ in them alone follow each other, so that words come from memory once
//   LIFTED     see below
//   GROUPED    whether the scale changes on the way, every `group` columns, a multiple of a step
//   BINARY, HAS_ZERO, HAS_BIAS, ACTIVATION
// and puts halves.cu in front.
//
// A block computes 16 outputs or 32; its warps share the columns. Four threads read 64 neighbouring bytes of a row. Which
// column of a step is which does not matter to a product as long as both sides agree: pairs of codes stay as a shift and a
// mask bring them forward, and inputs are paired alike.
//
// A code lies beside the exponent of a half float that lifts it by a power of two. Either the lift is subtracted from every
// code, or, where LIFTED, codes are multiplied as they are and the lift times the sum of the inputs is subtracted from the
// sums; another product, with ones, finds those.

constexpr u32 CODES = 32 / BITS;           // of a word
constexpr u32 PIECE = 4 * CODES;           // codes of 16 bytes
constexpr u32 STEP = 4 * PIECE;            // columns that four threads read at once
// What is too much in a code's half float.
constexpr float EXCESS = LIFTED ? Pairs<T>::lift + (BINARY ? 0.5f : MIDDLE) : BINARY ? 0.5f : 0.0f;
constexpr bool SUMS_INPUTS = LIFTED || HAS_ZERO || BINARY;

struct Info {
    u64 rows, columns, outputs;
    u64 x_stride, word_stride, scale_stride, y_stride;
    u64 group;  // columns that share a scale
};

DEVICE void multiply(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." T_NAME "." T_NAME ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Codes n and n + CODES / 2 of a word.
DEVICE u32 pair_of(u32 word, u32 n) {
#if PAIRED
    constexpr u32 MASK = ((1u << BITS) - 1) * 0x00010001u;
    // In one instruction: the compiler makes two of `and` and `or` with constants, and this kernel waits for them.
    u32 lifted;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;"
        : "=r"(lifted)
        : "r"(word >> (BITS * n)), "n"(MASK), "n"(Pairs<T>::lifted * 0x00010001u));
    return LIFTED ? lifted : bits_of(__hsub2(two_of(lifted), twice(Pairs<T>::lift + MIDDLE)));
#else
    // Eight bits do not fit beside an exponent: by way of floats, of 2^23 and the code in its lowest bits.
    const float first = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7440 + n)) - (8388608.0f + MIDDLE);
    const float second = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7440 + n + 2)) - (8388608.0f + MIDDLE);
    const Two both = {from_float<T>(first), from_float<T>(second)};
    return bits_of(both);
#endif
}

// The inputs of a thread's piece of a row.
struct Inputs {
    u32 pair[PIECE / 2];
};

// Zeros where there are none.
DEVICE void load(Inputs& to, const T* from, bool there) {
#pragma unroll
    for (u32 i = 0; i < PIECE / 8; i++) {
        u32* pair = to.pair + i * 4;
        asm volatile("{\n.reg .pred there;\nsetp.ne.u32 there, %5, 0;\n"
                     "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
                     "@there ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
                     : "=&r"(pair[0]), "=&r"(pair[1]), "=&r"(pair[2]), "=&r"(pair[3])
                     : "l"(from + i * 8), "r"(static_cast<u32>(there)));
    }
}

// Input n of word i beside input n + CODES / 2.
DEVICE u32 input_of(const Inputs& inputs, u32 i, u32 n) {
    const u32 first = (i * CODES + n) / 2, second = (i * CODES + n + CODES / 2) / 2;
    return __byte_perm(inputs.pair[first], inputs.pair[second], n % 2 ? 0x7632 : 0x5410);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) few_rows(
    const T* __restrict__ x, const u32* __restrict__ words, const SCALE* __restrict__ scale,
#if HAS_ZERO
    const SCALE* __restrict__ zero,
#endif
#if HAS_BIAS
    const BIAS* __restrict__ bias,
#endif
    T* __restrict__ y, const __grid_constant__ Info info) {
    constexpr u32 OUT = 16 * OUTPUTS;
    __shared__ float parts[WARPS][TILES][8][OUT + 1];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane / 4, member = lane % 4;
    const u32 columns = info.columns, outputs = info.outputs;
    const u32 parts_of_rows = (info.rows + 8 * TILES - 1) / (8 * TILES), first_row = blockIdx.x % parts_of_rows * (8 * TILES);
    const u32 rows = min(static_cast<u32>(info.rows) - first_row, 8 * TILES);
    const u32 first = blockIdx.x / parts_of_rows * OUT;
    x += first_row * info.x_stride;
    y += first_row * info.y_stride;
    // A thread has outputs eight apart.
    u32 output[2 * OUTPUTS];
    const uint4* row_words[2 * OUTPUTS];
#pragma unroll
    for (u32 h = 0; h < 2 * OUTPUTS; h++) {
        output[h] = min(first + quad + h * 8, outputs - 1);
        row_words[h] = reinterpret_cast<const uint4*>(words + output[h] * info.word_stride) + member;
    }
    // By tile of rows, two rows of x for each of two outputs.
    float sum[TILES][OUTPUTS][4] = {};
    const u32 steps = columns / STEP;
    for (u32 from = warp * CHUNKS; from < steps; from += WARPS * CHUNKS) {
        uint4 packed[CHUNKS][2 * OUTPUTS];
        Inputs inputs[CHUNKS][TILES];
        RawScale factor[CHUNKS][2 * OUTPUTS];
#if HAS_ZERO
        RawScale added[CHUNKS][2 * OUTPUTS];
#endif
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            const u32 step = min(from + c, steps - 1);
#pragma unroll
            for (u32 h = 0; h < 2 * OUTPUTS; h++) packed[c][h] = load_words(row_words[h] + step * 4);
        }
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            const u32 step = min(from + c, steps - 1);
#pragma unroll
            for (u32 t = 0; t < TILES; t++) {
                const u32 row = t * 8 + quad;
                load(inputs[c][t], x + row * info.x_stride + step * STEP + member * PIECE, row < rows && from + c < steps);
            }
            const u32 group = GROUPED ? step * STEP / static_cast<u32>(info.group) : 0;
#pragma unroll
            for (u32 h = 0; h < 2 * OUTPUTS; h++) {
                const u64 place = output[h] * info.scale_stride + group;
                factor[c][h] = load_scale(scale + place);
#if HAS_ZERO
                added[c][h] = load_scale(zero + place);
#endif
            }
        }
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            float part[TILES][OUTPUTS][4] = {}, plain[TILES][4] = {};
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 n = 0; n < CODES / 2; n += 2) {
                    u32 a[OUTPUTS][4];
#pragma unroll
                    for (u32 o = 0; o < OUTPUTS; o++) {
                        const u32 low = reinterpret_cast<const u32*>(&packed[c][2 * o])[i];
                        const u32 high = reinterpret_cast<const u32*>(&packed[c][2 * o + 1])[i];
                        a[o][0] = pair_of(low, n), a[o][1] = pair_of(high, n);
                        a[o][2] = pair_of(low, n + 1), a[o][3] = pair_of(high, n + 1);
                    }
#pragma unroll
                    for (u32 t = 0; t < TILES; t++) {
                        const u32 b0 = input_of(inputs[c][t], i, n), b1 = input_of(inputs[c][t], i, n + 1);
#pragma unroll
                        for (u32 o = 0; o < OUTPUTS; o++) multiply(part[t][o], a[o][0], a[o][1], a[o][2], a[o][3], b0, b1);
                        constexpr u32 ONES = Pairs<T>::one * 0x00010001u;
                        if (SUMS_INPUTS) multiply(plain[t], ONES, ONES, ONES, ONES, b0, b1);
                    }
                }
            }
#pragma unroll
            for (u32 o = 0; o < OUTPUTS; o++) {
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    const float by = factor[c][2 * o + k / 2].value() * (BINARY ? 2.0f : 1.0f);
#pragma unroll
                    for (u32 t = 0; t < TILES; t++) {
                        sum[t][o][k] += (part[t][o][k] - EXCESS * plain[t][k]) * by;
#if HAS_ZERO
                        sum[t][o][k] += added[c][2 * o + k / 2].value() * plain[t][k];
#endif
                    }
                }
            }
        }
    }
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) parts[warp][t][member * 2 + k % 2][o * 16 + quad + k / 2 * 8] = sum[t][o][k];
    __syncthreads();
    for (u32 i = threadIdx.x; i < TILES * 8 * OUT; i += 32 * WARPS) {
        const u32 n = i % OUT, row = i / OUT, o = first + n;
        if (row >= rows || o >= outputs) continue;
        float v = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) v += parts[w][row / 8][row % 8][n];
#if HAS_BIAS
        v += to_float(bias[o]);
#endif
        y[row * info.y_stride + o] = from_float<T>(activation<T>(v));
    }
}
