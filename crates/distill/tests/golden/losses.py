"""Writes losses.json beside this file: every loss and its gradient in the student's tensor, by PyTorch in float64.

    python crates/distill/tests/golden/losses.py

Needs torch. The formulas here are PyTorch's own (kl_div, cross_entropy, mse_loss) wherever it has them, and DeepSpeed's
where it has its own: its soft cross-entropy, and its sums over layers (bert/util.py of its examples).
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(20)


def numbers(*shape, scale=2.0):
    """Random numbers of few digits, which float32 and the JSON hold alike."""
    return (torch.randn(*shape) * scale * 64).round().double() / 64


def masked(scores, lengths):
    """Scores [batch, heads, seq, seq] with -10000 added where the key is padding."""
    seq = scores.shape[-1]
    padding = torch.arange(seq)[None, :] >= torch.tensor(lengths)[:, None]
    return scores - 10000.0 * padding[:, None, None, :].double()


def soft_cross_entropy(student, teacher, over):
    """DeepSpeed's: the mean over rows and classes; `over` rows alone makes a cross-entropy of it."""
    rows = -(F.softmax(teacher, -1) * F.log_softmax(student, -1))
    return rows.mean() if over == "mean" else rows.sum(-1).mean()


def kl(student, teacher, temperature=1.0):
    student, teacher = student / temperature, teacher / temperature
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    loss = F.kl_div(F.log_softmax(student, -1), F.softmax(teacher, -1), reduction="batchmean")
    return loss * temperature**2


def relation(values):
    return values @ values.transpose(-1, -2) / math.sqrt(values.shape[-1])


def case(name, loss, student, **others):
    """One entry: the inputs, the loss and its gradient."""
    student = student.clone().requires_grad_(True)
    value = loss(student, **others)
    value.backward()
    tensors = {"student": student, **{k: v for k, v in others.items() if torch.is_tensor(v)}}
    entry = {"name": name, "value": value.item(), "gradient": student.grad.flatten().tolist()}
    entry |= {k: v for k, v in others.items() if not torch.is_tensor(v)}
    for key, tensor in tensors.items():
        entry[key] = {"shape": list(tensor.shape), "data": tensor.detach().flatten().tolist()}
    return entry


def cases():
    logits, teacher = numbers(4, 5), numbers(4, 5)
    # Rows on which a softmax without care overflows or loses everything.
    logits[3], teacher[3] = numbers(5, scale=300), numbers(5, scale=300)
    for over in ["mean", "batchmean"]:
        yield case("soft_cross_entropy", soft_cross_entropy, logits, teacher=teacher, over=over)
    for temperature in [1.0, 4.0]:
        yield case("logits_kl", kl, logits, teacher=teacher, temperature=temperature)
    yield case("logits_mse", lambda student, teacher: F.mse_loss(student, teacher), logits, teacher=teacher)
    targets = torch.tensor([4, 0, 2, 2])
    yield case("cross_entropy", lambda student, targets: F.cross_entropy(student, targets), logits, targets=targets)

    hidden = [numbers(2, 3, 6) for _ in range(2)]
    yield case("hidden_mse", lambda student, teacher: F.mse_loss(student, teacher), hidden[0], teacher=hidden[1])

    scores = [masked(numbers(2, 2, 4, 4), [4, 2]) for _ in range(2)]
    yield case("scores_mse", lambda student, teacher: F.mse_loss(student, teacher), scores[0], teacher=scores[1])
    yield case("probabilities_kl", kl, scores[0], teacher=scores[1])
    softened = lambda student, teacher: F.mse_loss(F.softmax(student, -1), F.softmax(teacher, -1))
    yield case("probabilities_mse", softened, scores[0], teacher=scores[1])

    values = [numbers(2, 2, 4, 3, scale=1.0), numbers(2, 2, 4, 5, scale=1.0)]
    relations = lambda student, teacher: kl(relation(student), relation(teacher))
    yield case("value_relation_kl", relations, values[0], teacher=values[1])


if __name__ == "__main__":
    lines = [json.dumps(entry) for entry in cases()]
    out = pathlib.Path(__file__).with_suffix(".json")
    out.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{out.name}: {len(lines)} cases, torch {torch.__version__}")
