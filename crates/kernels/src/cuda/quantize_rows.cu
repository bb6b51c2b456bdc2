// Codes of 8 bits or fewer for rows of floats, with a scale for each row, in the blocks that int8_product reads.
//
// The host defines
//   IN       element of x: float, __nv_bfloat16 or __half
//   TEAM     threads that share a row: 32, 64, 128, 256 or 512
//   CHUNKS   pieces of eight columns that each of them holds
//   SYMMETRIC, WIDENED, FIXED  how the scale follows from the range; see TokenQuant

struct Info {
    u64 rows, columns;
    u64 blocks;  // of 128 codes in a row
    u64 stride;  // from a row of x to the next, in elements
    float low, high;
    float divisor;
    float scale, zero_point;  // where FIXED
    float offset;             // what is subtracted from codes to fit a signed byte
};

constexpr u32 THREADS = TEAM < 128 ? 128 : TEAM;

DEVICE float team_max(float x, float* memory, u32 part) {
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
#if TEAM > 32
    if (threadIdx.x % 32 == 0) memory[threadIdx.x / 32] = x;
    __syncthreads();
    const u32 first = threadIdx.x / TEAM * (TEAM / 32);
    x = memory[first];
#pragma unroll
    for (u32 i = 1; i < TEAM / 32; i++) x = fmaxf(x, memory[first + i]);
#endif
    return x;
}

// Eight columns as they lie in memory.
struct alignas(8 * sizeof(IN)) Piece {
    IN value[8];
};

// A thread's part of a row, and zeros past its end. No load waits for another: where pieces are whole, all stand in a row
// without a branch between them.
DEVICE void load_row(const IN* row, u32 columns, u32 member, Piece (&to)[CHUNKS]) {
    const IN nothing = from_float<IN>(0.0f);
    if (columns % 8 == 0 && reinterpret_cast<u64>(row) % 16 == 0) {
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++)
            to[c] = *reinterpret_cast<const Piece*>(row + min((c * TEAM + member) * 8, columns - 8));
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++)
#pragma unroll
            for (u32 i = 0; i < 8; i++) to[c].value[i] = (c * TEAM + member) * 8 < columns ? to[c].value[i] : nothing;
    } else {
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++)
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 at = (c * TEAM + member) * 8 + i;
                to[c].value[i] = at < columns ? row[at] : nothing;
            }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) quantize_rows(
    const IN* __restrict__ x, char* __restrict__ codes, float* __restrict__ row_scale,
#if !SYMMETRIC
    float* __restrict__ row_shift,
#endif
    const __grid_constant__ Info info) {
    __shared__ float highest[THREADS / 32];
#if !SYMMETRIC
    __shared__ float lowest[THREADS / 32];
#endif
    const u32 member = threadIdx.x % TEAM, columns = info.columns, blocks = info.blocks;
    const u64 row = u64(blockIdx.x) * (THREADS / TEAM) + threadIdx.x / TEAM;
    const u64 source = row < info.rows ? row : info.rows - 1;
    Piece piece[CHUNKS];
    load_row(x + source * info.stride, columns, member, piece);
#if FIXED
    float scale = info.scale;
#if !SYMMETRIC
    float zero_point = info.zero_point;
#endif
#else
    // Columns past the end are zero, which counts only where the range need not include it.
    constexpr bool COUNTS = SYMMETRIC || WIDENED;
    const float first = to_float(x[source * info.stride]);
    float above = COUNTS ? 0.0f : first;
#if !SYMMETRIC
    float below = COUNTS ? 0.0f : -first;
#endif
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            [[maybe_unused]] const bool inside = COUNTS || (c * TEAM + member) * 8 + i < columns;
#if SYMMETRIC
            above = fmaxf(above, fabsf(to_float(piece[c].value[i])));
#else
            const float value = to_float(piece[c].value[i]);
            above = fmaxf(above, inside ? value : first);
            below = fmaxf(below, inside ? -value : -first);
#endif
        }
    }
    above = team_max(above, highest, member);
#if SYMMETRIC
    float scale = __fdiv_rn(above, info.divisor);
#else
    below = team_max(below, lowest, member);
    float zero_point = 0.0f;
    float scale = __fdiv_rn(above + below, info.divisor);
#endif
    if (scale == 0.0f) scale = 1.0f;
#if !SYMMETRIC
    zero_point = rintf(__fdiv_rn(-below, scale));
#endif
#endif
    const float inverse = __frcp_rn(scale);
#if !SYMMETRIC
    const float zero = __fmul_rn(zero_point, scale);
#endif
    if (row >= info.rows) return;
    char* panel = codes + row / 64 * blocks * (64 * 128) + row % 64 * 128;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        const u32 chunk = c * TEAM + member;
        if (chunk >= blocks * 16) break;
        u32 code[8];
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            float value = to_float(piece[c].value[i]);
#if !SYMMETRIC
            value -= zero;
#endif
            const float quotient = divide(value, scale, inverse);
            // A number this large has no place for a fraction: adding it rounds, half to even, and leaves the whole
            // number in the lowest bits. Weights are zero where columns past the end are not.
            const float kept = fminf(fmaxf(quotient, info.low), info.high);
#if SYMMETRIC
            code[i] = __float_as_uint(kept + 12582912.0f);
#else
            code[i] = __float_as_uint((kept + 12582912.0f) - info.offset);
#endif
        }
        const u32 low = __byte_perm(__byte_perm(code[0], code[1], 0x0040), __byte_perm(code[2], code[3], 0x0040), 0x5410);
        const u32 high = __byte_perm(__byte_perm(code[4], code[5], 0x0040), __byte_perm(code[6], code[7], 0x0040), 0x5410);
        const u32 place = (chunk / 2 % 8) ^ (row % 8);
        *reinterpret_cast<uint2*>(panel + chunk / 16 * (64 * 128) + place * 16 + chunk % 2 * 8) =
            make_uint2(low, high);
    }
    if (member == 0) {
        row_scale[row] = scale;
#if !SYMMETRIC
        row_shift[row] = zero + info.offset * scale;
#endif
    }
}
