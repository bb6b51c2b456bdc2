// The values of a packed weight as half floats, in the blocks that half_product reads.
//
// The host defines
//   T        element of the values: __nv_bfloat16 or __half
//   SCALE    element of the scales and zeros
//   BITS     of a code, 1 to 8
//   BINARY, HAS_ZERO  whether the one bit stands for -1 or 1; whether codes are counted from zero and a number is added
//   EVEN     whether eight neighbouring columns, from a multiple of eight on, always share a scale
//
// A thread unpacks eight neighbouring codes.

struct Info {
    u64 rows, columns;
    u64 blocks;  // of 64 columns in a row
    u64 stride, words;  // from a row of words to the next; words of a row
    u64 scale_stride;   // from the scales of a row to those of the next
    u64 group;          // columns that share a scale
};

constexpr float MIDDLE = BINARY ? 0.5f : HAS_ZERO ? 0.0f : static_cast<float>(1u << (BITS - 1));
constexpr float UNIT = BINARY ? 2.0f : 1.0f;

extern "C" __global__ void __launch_bounds__(256) weight_values(
    const u32* __restrict__ packed, const SCALE* __restrict__ scales,
#if HAS_ZERO
    const SCALE* __restrict__ zeros,
#endif
    char* __restrict__ values, const __grid_constant__ Info info) {
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x;
    const u32 chunks = info.blocks * 8, columns = info.columns, group = info.group;
    const u32 row = at / chunks, chunk = at % chunks;
    if (row >= info.rows) return;
    const u32 first = chunk * 8;
    // 64 bits from the first code on.
    const u32* words = packed + row * info.stride;
    const u32 bit = first * BITS, word = bit / 32, shift = bit % 32;
    const auto read = [&](u32 i) { return i < info.words ? words[i] : 0; };
    u32 low, high = 0;
    if (BITS == 4) {
        low = read(word);
    } else if (BITS == 8) {
        low = read(word), high = read(word + 1);
    } else {
        const u32 middle = read(word + 1);
        low = __funnelshift_r(read(word), middle, shift);
        high = __funnelshift_r(middle, read(word + 2), shift);
    }
    const u64 place = row * info.scale_stride;
    const auto index = [&](u32 i) { return place + min(first + i, columns - 1) / group; };
    alignas(16) T value[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u64 scale = index(EVEN ? 0 : i);
        const u32 from = i * BITS;
        const u32 bits = from + BITS <= 32 ? low >> from : from >= 32 ? high >> (from - 32) : __funnelshift_r(low, high, from);
        float v = (static_cast<float>(bits & ((1u << BITS) - 1)) - MIDDLE) * (UNIT * to_float(scales[scale]));
#if HAS_ZERO
        v += to_float(zeros[scale]);
#endif
        value[i] = from_float<T>(first + i < columns ? v : 0.0f);
    }
    char* block = values + (row / 64 * info.blocks + chunk / 8) * (64 * 128);
    *reinterpret_cast<uint4*>(block + row % 64 * 128 + ((chunk % 8) ^ (row % 8)) * 16) = *reinterpret_cast<const uint4*>(value);
}
