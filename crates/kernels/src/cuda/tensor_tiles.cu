// What products on the tensor cores of Hopper have in common: tiles that lie in memory as the tensor cores read them from
// shared memory, how they get there, in which order they are computed, and where results go.
//
// In front stand SUM, the type of the sums, and WGMMA, the instruction for BN columns.
//
// A matrix lies in panels of 64 rows, and within a panel in blocks of 128 bytes of each row, 8 KiB each, in which the
// eight 16-byte chunks of row r are stored at chunk ^ (r % 8). A tile is then loaded by a few bulk copies of whole blocks.

constexpr u32 BM = 128;
constexpr u32 BLOCK = 64 * 128;
constexpr u32 A_BYTES = BM * 128;
constexpr u32 B_BYTES = BN * 128;
constexpr u32 STAGE = A_BYTES + B_BYTES;
constexpr u32 CONSUMERS = 2;
// Rows of tiles that are gone through together, so that what they share is still in the L2.
constexpr u32 GROUP = 8;
// Results of a warp on their way out: 16 rows of 128 bytes, swizzled like a block so that no two threads meet in a bank.
constexpr u32 OUT_BYTES = 16 * 128;
constexpr u32 PIECE = 128 / sizeof(OUT);

DEVICE u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

DEVICE void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

DEVICE void barrier_wait(u32 barrier, u32 phase) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(barrier), "r"(phase) : "memory");
}

// Waits for a group of 128 threads.
DEVICE void group_sync(u32 group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

DEVICE void load(u32 to, const char* from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
        "r"(bytes), "r"(barrier) : "memory");
}

// A matrix in shared memory: rows of 128 bytes, swizzled, eight of them 1024 bytes apart.
DEVICE u64 descriptor(u32 address) {
    return static_cast<u64>((address & 0x3ffff) >> 4) | (u64(1) << 16) | (u64(1024 >> 4) << 32) | (u64(1) << 62);
}

struct Tile {
    u32 m, n;
};

// The n-th tile: first down a group of rows of tiles, then to the right.
DEVICE Tile tile_of(u32 unit, u32 tiles_m, u32 tiles_n) {
    const u32 in_group = GROUP * tiles_n;
    const u32 first = unit / in_group * GROUP;
    const u32 height = min(tiles_m - first, GROUP);
    const u32 rest = unit % in_group;
    return {first + rest % height, rest / height};
}

DEVICE void begin_barriers(u32 full, u32 empty) {
    for (u32 stage = 0; stage < STAGES; stage++) {
        barrier_init(full + stage * 8, 1);
        barrier_init(empty + stage * 8, CONSUMERS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// What the threads of a group need to know of the columns of a tile: loaded before the product, shared after it. Of two
// places in turn one may still be read while the other is written.
template <typename Column>
struct Columns {
    static constexpr u32 EACH = (BN + 127) / 128;
    static constexpr u32 BYTES = 2 * CONSUMERS * BN * sizeof(Column);
    Column* shared;
    Column mine[EACH];
    u32 turn;

    DEVICE Columns(unsigned char* memory, u32 group)
        : shared(reinterpret_cast<Column*>(memory) + group * BN), turn(0) {}

    template <typename F>
    DEVICE void load(F of) {
#pragma unroll
        for (u32 i = 0; i < EACH; i++) mine[i] = of(min(i * 128 + threadIdx.x % 128, BN - 1));
    }

    DEVICE const Column* share(u32 group) {
        Column* to = shared + turn * CONSUMERS * BN;
        turn ^= 1;
#pragma unroll
        for (u32 i = 0; i < EACH; i++)
            if (BN % 128 == 0 || i * 128 + threadIdx.x % 128 < BN) to[i * 128 + threadIdx.x % 128] = mine[i];
        group_sync(group);
        return to;
    }
};

// Where a column of a piece of results lies on its way out.
DEVICE unsigned char* place_of(unsigned char* out, u32 row, u32 column) {
    const u32 at = column * sizeof(OUT);
    return out + row * 128 + ((at / 16) ^ (row % 8)) * 16 + at % 16;
}

// All tiles of this block, stage by stage, by one thread.
DEVICE void load_tiles(const char* x, const char* w, u32 rows, u32 columns, u32 blocks, u32 base, u32 full, u32 empty) {
    const u32 tiles_m = (rows + BM - 1) / BM, tiles_n = (columns + BN - 1) / BN;
    const u32 last_x = (rows + 63) / 64 - 1, last_w = (columns + 63) / 64 - 1;
    u32 stage = 0, phase = 0;
    for (u32 unit = blockIdx.x; unit < tiles_m * tiles_n; unit += gridDim.x) {
        const Tile tile = tile_of(unit, tiles_m, tiles_n);
        for (u32 block = 0; block < blocks; block++) {
            const u32 to = base + stage * STAGE, barrier = full + stage * 8;
            barrier_wait(empty + stage * 8, phase ^ 1);
            barrier_expect(barrier, STAGE);
#pragma unroll
            for (u32 i = 0; i < BM / 64; i++) {
                const u64 panel = min(tile.m * (BM / 64) + i, last_x);
                load(to + i * BLOCK, x + (panel * blocks + block) * BLOCK, BLOCK, barrier);
            }
#pragma unroll
            for (u32 i = 0; i < BN / 64; i++) {
                const u64 panel = min(tile.n * (BN / 64) + i, last_w);
                load(to + A_BYTES + i * BLOCK, w + (panel * blocks + block) * BLOCK, BLOCK, barrier);
            }
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
    }
}

// The sums of one tile, by a group of 128 threads that has 64 of its rows.
DEVICE void multiply(SUM (&sum)[BN / 2], u32 blocks, u32 base, u32 full, u32 empty, u32& stage, u32& phase) {
    const bool elected = threadIdx.x % 128 == 0;
    const u32 group = threadIdx.x / 128;
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
}

// 16 rows of 128 bytes of results, from shared memory to their place in y: `left` is their first column.
DEVICE void store_rows(const unsigned char* out, OUT* y, u64 stride, bool aligned, u32 first_row, u32 rows, u32 left,
                       u32 columns) {
    const u32 lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = i * 4 + lane / 8, c = left + lane % 8 * (16 / sizeof(OUT));
        const unsigned char* from = out + r * 128 + ((lane % 8) ^ (r % 8)) * 16;
        OUT* to = y + (first_row + r) * stride + c;
        if (first_row + r < rows) {
            if (aligned && c + 16 / sizeof(OUT) <= columns) {
                *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
            } else {
                for (u32 e = 0; e < 16 / sizeof(OUT); e++)
                    if (c + e < columns) to[e] = reinterpret_cast<const OUT*>(from)[e];
            }
        }
    }
    __syncwarp();
}
