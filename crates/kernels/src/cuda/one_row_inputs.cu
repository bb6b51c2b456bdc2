// The inputs of one_row.cu: a few rows of half floats as bytes in shared memory.
//
// The host defines
//   T          element of the inputs: __nv_bfloat16 or __half
//   BITS       of the codes that they are multiplied with: 1, 2, 4 or 8
//   WARPS      of a block
//   QUANTIZED  whether they are quantized, a scale for each row; then SYMMETRIC, WIDENED and FIXED, see TokenQuant
//
// An input becomes two bytes that tensor cores multiply side by side. Where inputs are not quantized, those of a step share a
// scale that brings the largest of them to 15 bits, and the bytes are the upper and lower one of a whole number, the lower one
// signed. All others are as exact beside the largest one as half floats that would be added to it. Where they are quantized,
// the lower byte is the code, and the upper one is 1, for codes that do not count from zero: products with it are what the
// weight's codes add up to.

constexpr u32 CODES = 32 / BITS;           // of a word
constexpr u32 PLACES = 8 / BITS;           // of codes in a byte
constexpr u32 STEP = 64 * PLACES;          // columns of 64 bytes of codes
constexpr bool SHIFTED = QUANTIZED && !SYMMETRIC;

struct Info {
    u64 rows, columns, outputs;
    u64 x_stride, word_stride, scale_stride, y_stride;
    // In shared memory: inputs as they come; sums of a tile, and how far those of the next one lie apart.
    u64 raw, parts, part_bytes;
    float low, high;    // of codes
    float divisor, scale;
    float zero_point, offset;
};

// What a row of quantized inputs is known by.
struct RowRange {
    u32 highest, lowest;  // in the order of whole numbers
    float upper;          // what a product with an upper byte counts, in products with a lower one
    u32 unused;
};

// By row and byte, bytes of inputs; by row and step, their scale and what they add up to; by row, RowRange.
struct Inputs {
    unsigned char* bytes;
    u32 stride;  // from a row to the next; an odd number of 64 bytes, so that threads that read two rows meet no bank twice
    float2* of_step;
    RowRange* of_row;
    unsigned char* raw;
    u32 steps, tasks;  // of a row; of all rows

    DEVICE Inputs(unsigned char* shared, const Info& info) {
        const u32 rows = info.rows, columns = info.columns;
        steps = columns / STEP, tasks = rows * steps;
        bytes = shared, stride = (columns + 127) / 128 * 128 + 64;
        of_step = reinterpret_cast<float2*>(bytes + 2 * rows * stride);
        of_row = reinterpret_cast<RowRange*>(of_step + (tasks + 1) / 2 * 2);
        // Sixteen threads take a step, each the inputs of a word.
        raw = shared + info.raw + threadIdx.x * (2 * CODES);
    }

    DEVICE u32 row_of(u32 task) const { return tasks == steps ? 0 : task / steps; }
};

// A float of 16 bits.
DEVICE float half_of(u32 bits) {
    const unsigned short half = static_cast<unsigned short>(bits);
    return to_float(*reinterpret_cast<const T*>(&half));
}

// Calls `then(task, slot)` for the tasks of a half warp, and once more for the last one where it has one task less: shuffles
// need the whole warp.
template <typename Then>
DEVICE void each_task(u32 tasks, u32 warp, Then then) {
    const u32 half = threadIdx.x % 32 / 16;
    for (u32 at = 2 * warp, slot = 0; at < tasks; at += 2 * WARPS, slot++) {
        then(min(at + half, tasks - 1), slot * (32 * WARPS * 2 * CODES));
    }
}

// Inputs on their way. `wait` for them.
DEVICE void fetch(const Inputs& to, const T* x, const Info& info, u32 warp) {
    each_task(to.tasks, warp, [&](u32 task, u32 slot) {
        const u32 row = to.row_of(task), place = threadIdx.x % 16;
        const T* from = x + row * info.x_stride + (task - row * to.steps) * STEP + place * CODES;
        const u32 own = static_cast<u32>(__cvta_generic_to_shared(to.raw + slot));
        if (BITS == 8) {
            asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(own), "l"(from) : "memory");
        } else {
#pragma unroll
            for (u32 i = 0; i < CODES / 8; i++) {
                asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(own + i * 16), "l"(from + i * 8) : "memory");
            }
        }
    });
    // Here, before other loads: the group would wait for them too.
    asm volatile("cp.async.commit_group;" ::: "memory");
}

DEVICE void wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// The inputs of a word, in pairs.
struct Word {
    u32 pair[CODES / 2];

    DEVICE Word(const unsigned char* from) {
#pragma unroll
        for (u32 i = 0; i < CODES / 4; i++) reinterpret_cast<uint2*>(pair)[i] = reinterpret_cast<const uint2*>(from)[i];
    }

    DEVICE u32 bits(u32 i) const { return pair[i / 2] >> i % 2 * 16 & 0xffff; }
    DEVICE float value(u32 i) const { return half_of(bits(i)); }
};

// What four bytes add up to.
DEVICE int add_up(u32 bytes) { return __dp4a(static_cast<int>(bytes), 0x01010101, 0); }

// The lowest bytes of four words and, in `second`, the bytes above.
DEVICE u32 lowest_bytes(const u32 (&whole)[4], u32& second) {
    const u32 first = __byte_perm(whole[0], whole[1], 0x5140), last = __byte_perm(whole[2], whole[3], 0x5140);
    second = __byte_perm(first, last, 0x7632);
    return __byte_perm(first, last, 0x5410);
}

// Stores the bytes of a word's inputs by place of their codes in bytes, and returns what they add up to, of sixteen threads.
// Input c belongs to place c % PLACES of byte c / PLACES. `bytes_of(inputs, upper)` makes lower and upper bytes of four.
template <typename BytesOf>
DEVICE int store(const Inputs& to, u32 row, u32 step, BytesOf bytes_of) {
    u32* lower = reinterpret_cast<u32*>(to.bytes + (2 * row + 1) * to.stride + step * STEP) + threadIdx.x % 16;
    int total = 0;
#pragma unroll
    for (u32 p = 0; p < PLACES; p++) {
        u32 upper;
        const u32 bytes = bytes_of(p, upper);
        total += add_up(bytes);
        if (!QUANTIZED) total += 256 * add_up(upper);
        lower[p * 16] = bytes;
        if (!QUANTIZED || SHIFTED) lower[p * 16 - static_cast<int>(to.stride / 4)] = upper;
    }
#pragma unroll
    for (u32 apart = 8; apart > 0; apart /= 2) total += __shfl_xor_sync(~0u, total, apart);
    return total;
}

#if QUANTIZED
// Half floats in the order of whole numbers, and back.
DEVICE u32 ordered(u32 bits) { return bits & 0x8000 ? ~bits & 0xffff : bits | 0x8000; }
DEVICE float of_order(u32 key) { return half_of(key & 0x8000 ? key & 0x7fff : ~key & 0xffff); }

// The range of each row.
DEVICE void find_ranges(const Inputs& inputs, const Info& info, u32 warp) {
    if (threadIdx.x < static_cast<u32>(info.rows)) inputs.of_row[threadIdx.x] = {0, 0, 0.0f, 0};
    wait();
    __syncthreads();
    each_task(inputs.tasks, warp, [&](u32 task, u32 slot) {
        const Word word(inputs.raw + slot);
        u32 highest = 0, lowest = 0;
#pragma unroll
        for (u32 i = 0; i < CODES; i++) {
            const u32 key = ordered(word.bits(i));
            highest = max(highest, key), lowest = max(lowest, 0xffff - key);
        }
#pragma unroll
        for (u32 apart = 8; apart > 0; apart /= 2) {
            highest = max(highest, __shfl_xor_sync(~0u, highest, apart));
            lowest = max(lowest, __shfl_xor_sync(~0u, lowest, apart));
        }
        RowRange& row = inputs.of_row[inputs.row_of(task)];
        if (threadIdx.x % 16 == 0) atomicMax(&row.highest, highest), atomicMax(&row.lowest, lowest);
    });
    __syncthreads();
}

// The codes of quantize_rows.cu.
DEVICE void to_bytes(const Inputs& to, const Info& info, u32 warp) {
#if !FIXED
    find_ranges(to, info, warp);
#else
    wait();
#endif
    each_task(to.tasks, warp, [&](u32 task, u32 slot) {
        const u32 row = to.row_of(task), step = task - row * to.steps;
        const Word word(to.raw + slot);
        RowRange& range = to.of_row[row];
#if FIXED
        const float scale = info.scale, zero_point = info.zero_point;
#else
        float above = of_order(range.highest), below = -of_order(0xffff - range.lowest);
        if (SYMMETRIC) above = fmaxf(above, below), below = 0.0f;
        if (WIDENED) above = fmaxf(above, 0.0f), below = fmaxf(below, 0.0f);
        float scale = __fdiv_rn(above + below, info.divisor);
        if (scale == 0.0f) scale = 1.0f;
        const float zero_point = SYMMETRIC ? 0.0f : rintf(__fdiv_rn(-below, scale));
#endif
        const float inverse = __frcp_rn(scale), zero = __fmul_rn(zero_point, scale);
        const int total = store(to, row, step, [&](u32 p, u32& upper) {
            u32 code[4];
#pragma unroll
            for (u32 b = 0; b < 4; b++) {
                const float quotient = divide(word.value(b * PLACES + p) - zero, scale, inverse);
                const float kept = fminf(fmaxf(quotient, info.low), info.high);
                code[b] = __float_as_uint((kept + 12582912.0f) - info.offset);
            }
            u32 unused;
            upper = 0x01010101;
            return lowest_bytes(code, unused);
        });
        const float shift = zero + info.offset * scale;
        if (threadIdx.x % 16 == 0) {
            to.of_step[task] = {scale, fmaf(scale, total, SHIFTED ? shift * STEP : 0.0f)};
            if (SHIFTED) range.upper = shift / scale;
        }
    });
}
#else
// The largest absolute value of the inputs of sixteen threads. Without signs, half floats are in the order of their bits, and
// behind all others are those that are no number. For less than 1e-30 the reciprocal would not be finite.
DEVICE float largest_of(const Word& word) {
    u32 both = 0;
#pragma unroll
    for (u32 i = 0; i < CODES / 2; i++) both = __vmaxu2(both, word.pair[i] & 0x7fff7fff);
#pragma unroll
    for (u32 apart = 8; apart > 0; apart /= 2) both = __vmaxu2(both, __shfl_xor_sync(~0u, both, apart));
    const float largest = half_of(max(both & 0xffff, both >> 16));
    return largest < 1e-30f ? 1e-30f : largest;
}

// Whole numbers of 16 bits, with a scale for each step.
DEVICE void to_bytes(const Inputs& to, const Info& info, u32 warp) {
    constexpr float MOST = 32512.0f;
    constexpr float SMALL = 1.0f / 16384.0f;  // The quick division knows no divisors above 2^126.
    wait();
    each_task(to.tasks, warp, [&](u32 task, u32 slot) {
        const u32 row = to.row_of(task), step = task - row * to.steps;
        const Word word(to.raw + slot);
        const float largest = largest_of(word), inverse = __fdividef(MOST * SMALL, largest * SMALL);
        const int total = store(to, row, step, [&](u32 p, u32& upper) {
            u32 whole[4];
            // 128 more: the upper byte is rounded to the nearest then.
#pragma unroll
            for (u32 b = 0; b < 4; b++) {
                whole[b] = __float_as_uint(fmaf(word.value(b * PLACES + p), inverse, 12582912.0f + 128.0f));
            }
            return lowest_bytes(whole, upper) ^ 0x80808080;
        });
        const float scale = largest * (1.0f / MOST);
        if (threadIdx.x % 16 == 0) to.of_step[task] = {scale, scale * total};
    });
}
#endif
