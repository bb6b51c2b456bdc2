// Codes as half floats, and scales on their way.

template <typename U>
struct Pairs;
template <>
struct Pairs<__nv_bfloat16> {
    using Two = __nv_bfloat162;
    // 128, to which a code of up to 7 bits can be added in the lowest bits; 1024 below, for a code of up to 10. ONE is 1.
    static constexpr u32 lifted = 0x4300, one = 0x3f80;
    static constexpr float lift = 128.0f;
};
template <>
struct Pairs<__half> {
    using Two = __half2;
    static constexpr u32 lifted = 0x6400, one = 0x3c00;
    static constexpr float lift = 1024.0f;
};
using Two = Pairs<T>::Two;

DEVICE Two twice(float x) { return {from_float<T>(x), from_float<T>(x)}; }
DEVICE u32 bits_of(Two x) { return *reinterpret_cast<const u32*>(&x); }
DEVICE Two two_of(u32 x) { return *reinterpret_cast<const Two*>(&x); }

// What is subtracted from codes to have the values that scales multiply, but for a binary code, whose middle is a half.
constexpr float MIDDLE = BINARY || HAS_ZERO ? 0.0f : static_cast<float>(1u << (BITS - 1));

// A scale as it lies in memory, on its way from the instruction on that stands here: a plain load would be moved to where
// its value is needed, and waited for there.
struct RawScale {
    u32 bits;

    DEVICE float value() const {
        if constexpr (sizeof(SCALE) == 4) return __uint_as_float(bits);
        const unsigned short half = static_cast<unsigned short>(bits);
        return to_float(*reinterpret_cast<const SCALE*>(&half));
    }
};

DEVICE RawScale load_scale(const SCALE* from) {
    u32 bits;
    if constexpr (sizeof(SCALE) == 4) {
        asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(bits) : "l"(from));
    } else {
        unsigned short half;
        asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(half) : "l"(from));
        bits = half;
    }
    return {bits};
}

// Loads stand in instructions of their own, so that all of them are on their way before the first product waits.
DEVICE uint4 load_words(const uint4* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}
