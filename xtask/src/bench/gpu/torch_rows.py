"""Times PyTorch beside `briquette-bench`, and adds rows of the same form to the same kind of file.

    python torch_rows.py --rows FILE [--only operations|models ...] [--seconds N] [--smoke] [--device cpu|cuda]

Operations are captured in a CUDA graph, with copies of the weight taking turns, so that nothing but the device's
time is seen and every weight comes from memory. Models are timed as a caller waits, one forward pass at a time.

Ends with 0, after a row that says so, where torch or a GPU is missing.
"""

import argparse
import json
import statistics
import time

LAYERS = {
    "7B": [(4096, 4096), (4096, 11008), (11008, 4096)],
    "BERT-base": [(768, 768), (768, 3072), (3072, 768)],
    "GPT-2-medium": [(1024, 1024), (1024, 4096), (4096, 1024)],
}
ROWS = [1, 16, 64, 256, 1024, 4096]
ROTATED = 160 << 20
GROUP = 128
ROUNDS = 5
ENCODER = dict(layers=12, heads=12, width=768, inner=3072)
MODELS = {
    "BERT-base": dict(vocabulary=30522, positions=512, causal=False, shapes=[(1, 128), (8, 128), (64, 128)]),
    "GPT-2": dict(vocabulary=50257, positions=1024, causal=True, shapes=[(1, 512), (8, 512)]),
}


def smaller():
    """Tiny sizes: whether everything runs."""
    global LAYERS, ROWS, ROTATED, GROUP, ROUNDS, ENCODER, MODELS
    LAYERS = {"BERT-base": [(32, 32), (32, 64)]}
    ROWS, ROTATED, GROUP, ROUNDS = [1, 16, 20], 1 << 12, 32, 1
    ENCODER = dict(layers=2, heads=2, width=32, inner=64)
    MODELS = {
        "BERT-base": dict(vocabulary=50, positions=16, causal=False, shapes=[(1, 8), (2, 8)]),
        "GPT-2": dict(vocabulary=50, positions=16, causal=True, shapes=[(1, 8)]),
    }


class Bench:
    """Where rows go, on what is computed, and until when."""

    def __init__(self, arguments):
        self.file = open(arguments.rows, "a")
        self.until = time.monotonic() + arguments.seconds
        self.seconds = arguments.seconds
        self.device = arguments.device

    def add(self, kind, **values):
        self.file.write(json.dumps({"kind": kind, **values}) + "\n")
        self.file.flush()

    def measured(self, what, measure):
        """Adds the row that `measure` makes, or why there is none."""
        if time.monotonic() > self.until:
            return self.add("left_out", what=what, why=f"the {self.seconds} seconds were over")
        try:
            kind, values = measure()
            self.add(kind, **values)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.add("left_out", what=what, why=f"{type(error).__name__}: {lines[0][:200]}")


def synchronize(bench):
    import torch

    if bench.device == "cuda":
        torch.cuda.synchronize()


def device_us(bench, call, copies):
    """Microseconds on the device of `call(i)` for i = 0, 1, .. which takes one of `copies` weights."""
    import torch

    for i in range(copies + 3):
        call(i)
    synchronize(bench)
    begin = time.perf_counter()
    for i in range(8):
        call(i)
    synchronize(bench)
    once = max((time.perf_counter() - begin) / 8, 1e-7)
    calls = min(max(int(0.008 / once), 4), 256)
    calls = max(calls, min(copies, 256))
    if bench.device != "cuda":
        return once * 1e6
    # Calls on the stream of a capture must have been seen there before.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(3):
            call(i)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            call(i)
    graph.replay()
    times = []
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def ceilings(bench):
    import torch

    elements, side = (1 << 12, 32) if bench.device == "cpu" else (1 << 30, 8192)

    def copy():
        source = torch.randint(0, 100, (elements,), dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        us = device_us(bench, lambda i: target.copy_(source), 1)
        return "ceiling", dict(what="copy", per_second=2 * elements / us * 1e6)

    def product():
        a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
        us = device_us(bench, lambda i: a @ b, 1)
        return "ceiling", dict(what="bf16", per_second=2 * side**3 / us * 1e6)

    bench.measured("torch copy bandwidth", copy)
    bench.measured("torch largest product", product)


def dynamic_w8a8(x, weight, scales, bias):
    """Rows quantized to 8 bits, an integer product, and both scales behind it."""
    import torch

    row = x.abs().amax(dim=1, keepdim=True).float() / 127.0
    codes = torch.round(x / row).clamp(-127, 127).to(torch.int8)
    return ((torch._int_mm(codes, weight).float() * row) * scales + bias).to(x.dtype)


class Layer:
    """One linear layer with copies of its weight; each method gives `call(i)`, the bytes it moves and copies."""

    def __init__(self, bench, d_input, d_output, rows):
        import torch

        self.torch, self.device = torch, bench.device
        self.d_input, self.d_output, self.rows = d_input, d_output, rows
        self.x = torch.randn(rows, d_input, device=bench.device, dtype=torch.bfloat16)
        self.bias = torch.randn(d_output, device=bench.device, dtype=torch.bfloat16)
        self.in_out = 2 * rows * (d_input + d_output)

    def copies(self, size):
        return max(-(-ROTATED // size), 2)

    def codes(self):
        shape, size = (self.d_output, self.d_input), self.d_output * self.d_input
        make = lambda: self.torch.randint(-127, 128, shape, dtype=self.torch.int8, device=self.device).t()
        return [make() for _ in range(self.copies(size))], size

    def bf16(self):
        shape, size = (self.d_output, self.d_input), 2 * self.d_output * self.d_input
        make = lambda: self.torch.randn(shape, dtype=self.torch.bfloat16, device=self.device) * self.d_input**-0.5
        weights = [make() for _ in range(self.copies(size))]
        linear = self.torch.nn.functional.linear
        return lambda i: linear(self.x, weights[i % len(weights)], self.bias), size + self.in_out, len(weights)

    def int_mm(self):
        weights, size = self.codes()
        x = self.torch.randint(-127, 128, self.x.shape, dtype=self.torch.int8, device=self.device)
        moved = size + self.rows * (self.d_input + 4 * self.d_output)
        return lambda i: self.torch._int_mm(x, weights[i % len(weights)]), moved, len(weights)

    def w8a8(self):
        weights, size = self.codes()
        scales = self.torch.rand(self.d_output, device=self.device) * 1e-3 + 1e-4
        compiled = self.torch.compile(dynamic_w8a8, dynamic=False)
        call = lambda i: compiled(self.x, weights[i % len(weights)], scales, self.bias)
        return call, size + 4 * self.d_output + self.in_out, len(weights)

    def int4(self):
        torch, size = self.torch, self.d_output * self.d_input // 2
        shape = (self.d_output, self.d_input // 2)
        convert = torch.ops.aten._convert_weight_to_int4pack
        make = lambda: convert(torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device), 8)
        weights = [make() for _ in range(self.copies(size))]
        groups = self.d_input // GROUP
        scales = torch.rand(groups, self.d_output, 2, device=self.device, dtype=torch.bfloat16) * 1e-2
        multiply = torch.ops.aten._weight_int4pack_mm
        call = lambda i: multiply(self.x, weights[i % len(weights)], GROUP, scales)
        return call, size + 4 * groups * self.d_output + self.in_out, len(weights)


def operations(bench):
    import torch

    # Each shape is compiled for itself; versions call the limit by either name.
    for limit in ("recompile_limit", "cache_size_limit"):
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 1024)
    ceilings(bench)
    forms = [
        ("torch bf16", Layer.bf16, 1),
        ("torch int4 tinygemm", Layer.int4, 1),
        ("torch _int_mm alone", Layer.int_mm, 17),
        ("torch compiled W8A8", Layer.w8a8, 17),
    ]
    places = [(model, layer, rows) for model, layers in LAYERS.items() for layer in layers for rows in ROWS]
    for model, (d_input, d_output), rows in places:
        for what, form, fewest in forms:
            if rows < fewest:
                continue

            def measure():
                call, size, copies = form(Layer(bench, d_input, d_output, rows))
                us = device_us(bench, call, copies)
                return "linear", dict(
                    what=what, model=model, d_input=d_input, d_output=d_output, rows=rows,
                    device_us=us, call_us=us, bytes=size,
                )

            bench.measured(f"{what} {rows} x {d_input} x {d_output}", measure)


def transformer(vocabulary, positions, causal, fused):
    """A BERT classifier, or where `causal` GPT-2 with its head; `fused` attention is torch's own kernel."""
    import torch
    from torch import nn
    from torch.nn import functional

    heads, width, inner = ENCODER["heads"], ENCODER["width"], ENCODER["inner"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
            self.project, self.widen = nn.Linear(width, width), nn.Linear(width, inner)
            self.narrow = nn.Linear(inner, width)
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

        def attend(self, x):
            batch, seq, _ = x.shape
            split = lambda y: y.view(batch, seq, heads, width // heads).transpose(1, 2)
            q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
            if fused:
                y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            else:
                scores = q @ k.transpose(2, 3) * (width // heads) ** -0.5
                if causal:
                    future = torch.ones(seq, seq, dtype=torch.bool, device=x.device).triu(1)
                    scores = scores.masked_fill(future, float("-inf"))
                y = scores.softmax(dim=-1) @ v
            return self.project(y.transpose(1, 2).reshape(batch, seq, width))

        def feed(self, x):
            return self.narrow(functional.gelu(self.widen(x), approximate="tanh" if causal else "none"))

        def forward(self, x):
            if causal:
                x = x + self.attend(self.first(x))
                return x + self.feed(self.second(x))
            x = self.first(x + self.attend(x))
            return self.second(x + self.feed(x))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
            self.norm, self.pool, self.classify = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 2)
            self.blocks = nn.ModuleList(Block() for _ in range(ENCODER["layers"]))

        def forward(self, ids):
            x = self.words(ids) + self.places.weight[: ids.shape[1]]
            x = x if causal else self.norm(x)
            for block in self.blocks:
                x = block(x)
            if causal:
                return self.norm(x) @ self.words.weight.t()
            return self.classify(torch.tanh(self.pool(x[:, 0])))

    return Model()


def pass_ms(bench, model, ids):
    """Milliseconds of forward passes, each waited for."""
    import torch

    def once():
        begin = time.perf_counter()
        with torch.no_grad():
            logits = model(ids)
        synchronize(bench)
        del logits
        return (time.perf_counter() - begin) * 1e3

    for _ in range(5):
        once()
    begin, times = time.monotonic(), []
    while len(times) < 5 or (len(times) < 50 and time.monotonic() - begin < 1.5):
        times.append(once())
    return times


def models(bench):
    import torch

    half = torch.float16 if bench.device == "cuda" else torch.float32
    forms = [("eager", False, None), ("SDPA", True, None), ("compiled", True, "reduce-overhead")]
    for model, settings in MODELS.items():
        sizes = {key: settings[key] for key in ("vocabulary", "positions", "causal")}
        for name, fused, mode in forms:
            what = f"torch {'fp16' if half == torch.float16 else 'fp32'} {name}"
            for batch, seq in settings["shapes"]:

                def measure():
                    torch._dynamo.reset()
                    network = transformer(**sizes, fused=fused).to(bench.device, half).eval()
                    network = torch.compile(network, mode=mode, dynamic=False) if mode else network
                    ids = torch.randint(0, settings["vocabulary"], (batch, seq), device=bench.device)
                    times = pass_ms(bench, network, ids)
                    return "model", dict(
                        what=what, model=model, batch=batch, seq=seq, median_ms=statistics.median(times),
                        min_ms=min(times), runs=len(times),
                    )

                bench.measured(f"{what} {model} {batch} x {seq}", measure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", required=True)
    parser.add_argument("--only", action="append", choices=["checks", "operations", "models", "parts", "training"])
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    try:
        import torch
    except ImportError as error:
        return bench.add("left_out", what="torch", why=str(error))
    if arguments.device == "cuda" and not torch.cuda.is_available():
        return bench.add("left_out", what="torch", why=f"torch {torch.__version__} sees no GPU")
    if arguments.smoke:
        smaller()
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "the processor"
    bench.add("device", name=name, backend="torch", program=f"torch {torch.__version__}")
    wanted = lambda section: not arguments.only or section in arguments.only
    with torch.no_grad():
        if wanted("models"):
            models(bench)
        if wanted("operations"):
            operations(bench)


if __name__ == "__main__":
    main()
