// y = x w^T for rows of half floats and a packed weight, on the tensor cores of Hopper. The weight comes packed as far as
// the multiprocessor, and is unpacked into shared memory while the tensor cores multiply what was unpacked before.
//
// The host defines
//   T, OUT   element of x and y: __nv_bfloat16 or __half
//   BN       columns of a tile: 64, 128, 192 or 256
//   STAGES   tiles of both inputs that are on their way or in use
//   BITS     of a code, 1 to 8
//   SCALE    element of the scales and zeros
//   PAIRED   whether two codes fit into two half floats at once
//   BINARY, HAS_ZERO  whether the one bit stands for -1 or 1; whether codes are counted from zero and a number is added
//   ACTIVATION, HAS_BIAS  what follows the product; BIAS, the element of the bias
// and puts WGMMA, the instruction for BN columns, and tensor_tiles.cu, in whose layout x is, in front.
//
// One group of 128 threads loads and unpacks, two multiply, each 64 rows of a tile.

// Steps whose packed words are on their way.
constexpr u32 AHEAD = 4;
// A thread unpacks 32 codes of a row at a time, BITS words; it has so many such items of every step.
constexpr u32 ITEMS = BN / 64;
constexpr u32 WORDS = 128 * ITEMS * BITS;
constexpr u32 COPY = BITS % 4 == 0 ? 16 : BITS % 2 == 0 ? 8 : 4;

struct Info {
    u64 rows;     // of x
    u64 columns;  // of y
    u64 blocks;   // of 64 inputs
    u64 word_stride, scale_stride;  // from a row of the weight to the next
    u64 group;    // items that share a scale; 0 for all of a row
    u64 stride;   // from a row of y to the next, in elements
};

template <typename U>
struct Pairs;
template <>
struct Pairs<__nv_bfloat16> {
    using Two = __nv_bfloat162;
    // 128, to which a code of up to 7 bits can be added in the lowest bits; 1024 below, for a code of up to 10.
    static constexpr u32 lifted = 0x4300;
    static constexpr float lift = 128.0f;
};
template <>
struct Pairs<__half> {
    using Two = __half2;
    static constexpr u32 lifted = 0x6400;
    static constexpr float lift = 1024.0f;
};
using Two = Pairs<T>::Two;

DEVICE Two twice(float x) { return {from_float<T>(x), from_float<T>(x)}; }
DEVICE u32 bits_of(Two x) { return *reinterpret_cast<const u32*>(&x); }
DEVICE Two two_of(u32 x) { return *reinterpret_cast<const Two*>(&x); }

// What codes are multiplied with, and what is added.
struct Scale {
    T scale, zero;
};

// Codes that are half floats already, less their lift, to values: one rounding.
DEVICE Two valued(Two codes, Scale s) {
    const Two scale = {s.scale, s.scale};
#if BINARY
    return __hfma2(codes, __hadd2(scale, scale), __hneg2(scale));
#elif HAS_ZERO
    const Two zero = {s.zero, s.zero};
    return __hfma2(codes, scale, zero);
#else
    return __hmul2(codes, scale);
#endif
}

// The middle of the codes' range where they are counted from there.
constexpr float MIDDLE = BINARY || HAS_ZERO ? 0.0f : static_cast<float>(1u << (BITS - 1));

// 32 codes as half floats, in their order.
DEVICE void unpack(const u32 (&word)[BITS], Scale s, u32 (&out)[16]) {
#if PAIRED
    // Codes n and n + HALF of a word go into two halves with one shift and one mask, and find their order afterwards.
    constexpr u32 HALF = 16 / BITS, MASK = ((1u << BITS) - 1) * 0x00010001u;
    const Two lift = twice(Pairs<T>::lift + MIDDLE);
#pragma unroll
    for (u32 w = 0; w < BITS; w++) {
#pragma unroll
        for (u32 n = 0; n < HALF; n += 2) {
            u32 pair[2];
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                const u32 lifted = ((word[w] >> (BITS * (n + i))) & MASK) | Pairs<T>::lifted * 0x00010001u;
                pair[i] = bits_of(valued(__hsub2(two_of(lifted), lift), s));
            }
            out[w * HALF + n / 2] = __byte_perm(pair[0], pair[1], 0x5410);
            out[w * HALF + n / 2 + HALF / 2] = __byte_perm(pair[0], pair[1], 0x7632);
        }
    }
#else
    // 2^23, and the code in its lowest bits.
    const float scale = to_float(s.scale);
#pragma unroll
    for (u32 i = 0; i < 16; i++) {
        float value[2];
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            const u32 bit = (2 * i + k) * BITS, w = bit / 32, shift = bit % 32;
            const u32 both = shift + BITS <= 32 ? word[w] >> shift : __funnelshift_r(word[w], word[(w + 1) % BITS], shift);
            const float code = __uint_as_float(0x4b000000u | (both & ((1u << BITS) - 1))) - (8388608.0f + MIDDLE);
#if HAS_ZERO
            value[k] = fmaf(code, scale, to_float(s.zero));
#else
            value[k] = code * scale;
#endif
        }
        const Two two = {from_float<T>(value[0]), from_float<T>(value[1])};
        out[i] = bits_of(two);
    }
#endif
}

DEVICE void copy(u32 to, const u32* from) {
#if BITS % 4 == 0
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(COPY) : "memory");
#endif
}

// A place in the order in which tiles, and blocks within them, are computed.
struct Cursor {
    u32 unit, block, n;

    DEVICE void begin(u32 tiles_m, u32 tiles_n) { n = tile_of(unit, tiles_m, tiles_n).n; }
    DEVICE void next(u32 units, u32 blocks, u32 tiles_m, u32 tiles_n) {
        if (++block < blocks) return;
        block = 0;
        unit += gridDim.x;
        if (unit < units) begin(tiles_m, tiles_n);
    }
};

extern "C" __global__ void __launch_bounds__(128 * (CONSUMERS + 1), 1) half_product(
    const char* __restrict__ x, const u32* __restrict__ words, const SCALE* __restrict__ scales,
#if HAS_ZERO
    const SCALE* __restrict__ zeros,
#endif
#if HAS_BIAS
    const BIAS* __restrict__ bias,
#endif
    OUT* __restrict__ y, const __grid_constant__ Info info) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const u32 base = shared_address(memory);
    const u32 ring = base + STAGES * STAGE + CONSUMERS * 4 * OUT_BYTES;
    const u32 full = ring + AHEAD * WORDS * 4, empty = full + STAGES * 8;
    const u32 rows = info.rows, columns = info.columns, blocks = info.blocks;
    const u32 tiles_m = (rows + BM - 1) / BM, tiles_n = (columns + BN - 1) / BN;
    const u32 units = tiles_m * tiles_n;
    const u32 group = threadIdx.x / 128;

    if (threadIdx.x == 0) {
        for (u32 stage = 0; stage < STAGES; stage++) {
            // The thread that asks for x, and four warps that have unpacked.
            barrier_init(full + stage * 8, 5);
            barrier_init(empty + stage * 8, CONSUMERS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    u32 stage = 0, phase = 0;
    if (group == CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 104;");
        const u32 me = threadIdx.x % 128, last_x = (rows + 63) / 64 - 1;
        // Item i of a step: two neighbours share a row.
        const u32 half = me % 2;
        Cursor fetched = {blockIdx.x, 0, 0};
        fetched.begin(tiles_m, tiles_n);
        const auto row_of = [&](u32 n, u32 i) { return min(n * BN + i * 64 + me / 2, columns - 1); };
        const auto fetch = [&](u32 slot) {
            if (fetched.unit < units) {
#pragma unroll
                for (u32 i = 0; i < ITEMS; i++) {
                    const u32* from = words + row_of(fetched.n, i) * info.word_stride + (fetched.block * 2 + half) * BITS;
                    const u32 to = ring + (slot * WORDS + (i * 128 + me) * BITS) * 4;
#pragma unroll
                    for (u32 p = 0; p < 4 * BITS / COPY; p++) copy(to + p * COPY, from + p * (COPY / 4));
                }
                fetched.next(units, blocks, tiles_m, tiles_n);
            }
            asm volatile("cp.async.commit_group;" ::: "memory");
        };
        const auto scale_of = [&](const Cursor& at, u32 i) {
            const u64 place = row_of(at.n, i) * info.scale_stride + (info.group ? (at.block * 2 + half) / info.group : 0);
            Scale s = {from_float<T>(to_float(scales[place])), from_float<T>(0.0f)};
#if HAS_ZERO
            s.zero = from_float<T>(to_float(zeros[place]));
#endif
            return s;
        };
        for (u32 slot = 0; slot < AHEAD - 1; slot++) fetch(slot);
        Cursor at = {blockIdx.x, 0, 0};
        at.begin(tiles_m, tiles_n);
        Scale scale[ITEMS];
#pragma unroll
        for (u32 i = 0; i < ITEMS; i++) scale[i] = scale_of(at, i);
        for (u32 step = 0; at.unit < units; step++) {
            const u32 slot = step % AHEAD;
            fetch((step + AHEAD - 1) % AHEAD);
            const u32 to = base + stage * STAGE, barrier = full + stage * 8;
            barrier_wait(empty + stage * 8, phase ^ 1);
            if (me == 0) {
                const u32 m = tile_of(at.unit, tiles_m, tiles_n).m;
                barrier_expect(barrier, A_BYTES);
#pragma unroll
                for (u32 i = 0; i < BM / 64; i++) {
                    const u64 panel = min(m * (BM / 64) + i, last_x);
                    load(to + i * BLOCK, x + (panel * blocks + at.block) * BLOCK, BLOCK, barrier);
                }
            }
            at.next(units, blocks, tiles_m, tiles_n);
            asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory");
#pragma unroll
            for (u32 i = 0; i < ITEMS; i++) {
                const unsigned char* packed = memory + (ring - base) + (slot * WORDS + (i * 128 + me) * BITS) * 4;
                u32 word[BITS], out[16];
#pragma unroll
                for (u32 w = 0; w < BITS; w++) word[w] = reinterpret_cast<const u32*>(packed)[w];
                unpack(word, scale[i], out);
                // Of the next step, while this one's codes are stored.
                if (at.unit < units) scale[i] = scale_of(at, i);
                const u32 row = i * 64 + me / 2;
                unsigned char* line = memory + stage * STAGE + A_BYTES + row * 128;
#pragma unroll
                for (u32 c = 0; c < 4; c++)
                    *reinterpret_cast<uint4*>(line + ((half * 4 + c) ^ (row % 8)) * 16) =
                        make_uint4(out[c * 4], out[c * 4 + 1], out[c * 4 + 2], out[c * 4 + 3]);
            }
            // The tensor cores read through another proxy.
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            __syncwarp();
            if (me % 32 == 0) barrier_arrive(barrier);
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const bool elected = threadIdx.x % 128 == 0;
    const bool aligned = info.stride * sizeof(OUT) % 16 == 0 && reinterpret_cast<u64>(y) % 16 == 0;
    unsigned char* out = memory + STAGES * STAGE + threadIdx.x / 32 * OUT_BYTES;
    float sum[BN / 2];
    for (u32 unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const Tile tile = tile_of(unit, tiles_m, tiles_n);
        u32 before = 0;
        for (u32 block = 0; block < blocks; block++) {
            barrier_wait(full + stage * 8, phase);
            const u64 a = descriptor(base + stage * STAGE + group * BLOCK);
            const u64 b = descriptor(base + stage * STAGE + A_BYTES);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (u32 k = 0; k < 4; k++) WGMMA(sum, a + 2 * k, b + 2 * k, (block | k) != 0);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            if (block > 0) {
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (elected) barrier_arrive(empty + before * 8);
            }
            before = stage;
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (elected) barrier_arrive(empty + before * 8);

        // A thread has two neighbouring columns of every eight, in two rows eight apart.
        const u32 first_row = tile.m * BM + group * 64 + warp * 16;
#pragma unroll
        for (u32 piece = 0; piece < BN / PIECE; piece++) {
            const u32 left = tile.n * BN + piece * PIECE;
            if (left >= columns) break;
#pragma unroll
            for (u32 j = 0; j < PIECE / 8; j++) {
                float added[2] = {};
#if HAS_BIAS
                const u32 c = left + j * 8 + lane % 4 * 2;
#pragma unroll
                for (u32 i = 0; i < 2; i++) added[i] = to_float(bias[min(c + i, columns - 1)]);
#endif
#pragma unroll
                for (u32 h = 0; h < 2; h++) {
                    float value[2];
#pragma unroll
                    for (u32 i = 0; i < 2; i++)
                        value[i] = activation(sum[(piece * (PIECE / 8) + j) * 4 + h * 2 + i] + added[i]);
                    OUT* place = reinterpret_cast<OUT*>(out + (lane / 4 + h * 8) * PITCH) + j * 8 + lane % 4 * 2;
                    store_pair(place, value);
                }
            }
            store_rows(out, y, info.stride, aligned, first_row, rows, left, columns);
        }
    }
}
