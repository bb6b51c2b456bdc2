// softmax(q k^T scale + mask) v on tensor cores, without the scores ever being in memory (FlashAttention-2,
// arXiv 2307.08691): a block goes through the keys for 64 queries of a head.
//
// The host defines
//   T          element: __nv_bfloat16 or __half; T_NAME, what the instruction calls it
//   D          width of a head, a multiple of 16 up to 128
//   CAUSAL     whether query i sees keys up to i + keys - queries
//   HAS_MASK   whether something is added to the scores
//   LOWEST     what a masked score is raised to

constexpr u32 KEYS = 64, QUERIES = 64, PITCH = D + 8;
constexpr float LOG2_E = 1.44269504f;
// Below every score, masked ones too.
constexpr float NOTHING = -3.0e38f;

struct Strides {
    u64 batch, head, row;
};

struct Info {
    u64 batch, heads, queries, keys;
    Strides q, k, v, y;
    u64 mask_batch, mask_head, mask_query, mask_key;
    float scale;
};

DEVICE u32 pack(float first, float second) {
    const float both[2] = {first, second};
    alignas(4) T pair[2];
    store_pair(pair, both);
    return *reinterpret_cast<const u32*>(pair);
}

DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." T_NAME "." T_NAME ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE void load_matrices(u32 (&to)[4], const T* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<u32>(__cvta_generic_to_shared(from))));
}

DEVICE void load_transposed(u32 (&to)[4], const T* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<u32>(__cvta_generic_to_shared(from))));
}

// Begins to copy up to 64 rows of D elements; the rest becomes zero.
DEVICE void load_tile(T* to, const T* from, u64 stride, u32 rows) {
#pragma unroll
    for (u32 i = threadIdx.x; i < KEYS * D / 8; i += 128) {
        const u32 row = i / (D / 8), column = i % (D / 8) * 8;
        const u32 bytes = row < rows ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<u32>(__cvta_generic_to_shared(to + row * PITCH + column))),
                     "l"(from + min(row, rows - 1) * stride + column), "r"(bytes) : "memory");
    }
}

extern "C" __global__ void __launch_bounds__(128) attention(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
#if HAS_MASK
    const T* __restrict__ mask,
#endif
    T* __restrict__ y, const __grid_constant__ Info info) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* tiles = reinterpret_cast<T*>(memory);
    const u32 queries = info.queries, keys = info.keys;
    const u32 parts = (queries + QUERIES - 1) / QUERIES;
    const u32 part = blockIdx.x % parts;
    const u64 head = blockIdx.x / parts % info.heads, batch = blockIdx.x / parts / info.heads;
    const u32 lane = threadIdx.x % 32;
    const u32 first = part * QUERIES + threadIdx.x / 32 * 16;
    const u32 row[2] = {first + lane / 4, first + lane / 4 + 8};
    q += batch * info.q.batch + head * info.q.head;
    k += batch * info.k.batch + head * info.k.head;
    v += batch * info.v.batch + head * info.v.head;
    y += batch * info.y.batch + head * info.y.head;

    u32 query[D / 16][4];
#pragma unroll
    for (u32 step = 0; step < D / 16; step++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 r = row[i % 2], c = step * 16 + i / 2 * 8 + lane % 4 * 2;
            query[step][i] = r < queries ? *reinterpret_cast<const u32*>(q + r * info.q.row + c) : 0;
        }
    }

    float result[D / 8][4] = {};
    float most[2] = {NOTHING, NOTHING}, total[2] = {0.0f, 0.0f};
    u32 end = keys;
    if (CAUSAL) end = min(keys, part * QUERIES + QUERIES + (keys - queries));
    load_tile(tiles, k, info.k.row, keys);
    load_tile(tiles + KEYS * PITCH, v, info.v.row, keys);
    asm volatile("cp.async.commit_group;" ::: "memory");
    u32 turn = 0;
    for (u32 start = 0; start < end; start += KEYS, turn ^= 1) {
        const T* key_tile = tiles + turn * 2 * KEYS * PITCH;
        const T* value_tile = key_tile + KEYS * PITCH;
        const u32 next = start + KEYS;
        if (next < end) {
            T* to = tiles + (turn ^ 1) * 2 * KEYS * PITCH;
            load_tile(to, k + next * info.k.row, info.k.row, keys - next);
            load_tile(to + KEYS * PITCH, v + next * info.v.row, info.v.row, keys - next);
        }
        asm volatile("cp.async.commit_group;\ncp.async.wait_group 1;" ::: "memory");
        __syncthreads();

        float score[KEYS / 8][4] = {};
#pragma unroll
        for (u32 step = 0; step < D / 16; step++) {
#pragma unroll
            for (u32 n = 0; n < KEYS / 16; n++) {
                u32 b[4];
                load_matrices(b, key_tile + (n * 16 + lane % 8 + lane / 16 * 8) * PITCH + step * 16 + lane / 8 % 2 * 8);
                multiply(score[2 * n], query[step], b[0], b[1]);
                multiply(score[2 * n + 1], query[step], b[2], b[3]);
            }
        }

#if HAS_MASK && MASK_BY_KEY
        float hidden[KEYS / 8][2];
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 2; i++)
                hidden[n][i] = to_float(mask[batch * info.mask_batch + head * info.mask_head +
                                             min(start + n * 8 + lane % 4 * 2 + i, keys - 1) * info.mask_key]);
#endif
        float above[2] = {most[0], most[1]};
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 column = start + n * 8 + lane % 4 * 2 + i % 2, r = row[i / 2];
                float s = score[n][i] * info.scale;
#if HAS_MASK
#if MASK_BY_KEY
                s = fmaxf(s + hidden[n][i % 2], LOWEST);
#else
                const u64 at = batch * info.mask_batch + head * info.mask_head +
                               min(r, queries - 1) * info.mask_query + min(column, keys - 1) * info.mask_key;
                s = fmaxf(s + to_float(mask[at]), LOWEST);
#endif
#endif
                if (CAUSAL && column > r + (keys - queries)) s = 2.0f * LOWEST;
                if (column >= keys) s = NOTHING;
                score[n][i] = s;
                above[i / 2] = fmaxf(above[i / 2], s);
            }
        }
        float keep[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            above[half] = fmaxf(above[half], __shfl_xor_sync(~0u, above[half], 1));
            above[half] = fmaxf(above[half], __shfl_xor_sync(~0u, above[half], 2));
            keep[half] = exp2f((most[half] - above[half]) * LOG2_E);
            most[half] = above[half];
            total[half] *= keep[half];
        }
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                score[n][i] = exp2f((score[n][i] - most[i / 2]) * LOG2_E);
                total[i / 2] += score[n][i];
            }
        }
#pragma unroll
        for (u32 n = 0; n < D / 8; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) result[n][i] *= keep[i / 2];
        }
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            const u32 a[4] = {pack(score[2 * step][0], score[2 * step][1]), pack(score[2 * step][2], score[2 * step][3]),
                              pack(score[2 * step + 1][0], score[2 * step + 1][1]),
                              pack(score[2 * step + 1][2], score[2 * step + 1][3])};
#pragma unroll
            for (u32 n = 0; n < D / 16; n++) {
                u32 b[4];
                load_transposed(b, value_tile + (step * 16 + lane % 8 + lane / 8 % 2 * 8) * PITCH + n * 16 + lane / 16 * 8);
                multiply(result[2 * n], a, b[0], b[1]);
                multiply(result[2 * n + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(~0u, total[half], 1);
        total[half] += __shfl_xor_sync(~0u, total[half], 2);
        if (row[half] >= queries) continue;
        const float share = 1.0f / total[half];
#pragma unroll
        for (u32 n = 0; n < D / 8; n++) {
            const float value[2] = {result[n][half * 2] * share, result[n][half * 2 + 1] * share};
            store_pair(y + row[half] * info.y.row + n * 8 + lane % 4 * 2, value);
        }
    }
}
