"""Properties of all losses: gradients, precision, degenerate batches; and of the negatives."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import harness.distill
from harness.distill import (
    CrdMemory,
    VidRegressor,
    at_loss,
    crd_loss,
    dkd_loss,
    draw_negatives,
    fitnet_loss,
    fitnet_regressor,
    kd_divergence,
    kd_loss,
    memory_scores,
    normaliser,
    nst_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    rkd_loss,
    same_class_pairs,
    same_size,
    sp_loss,
    stage1_loss,
    standardised,
    standardised_kd_loss,
    teaching_loss,
    vid_loss,
)
from harness.distill.stage1 import RELATIONS

B = 8
LABELS = torch.arange(B) % 5
DKD = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}

# Name -> (loss of student and teacher, shape of the student's, of the teacher's).
Loss = Callable[[Tensor, Tensor], Tensor]
LOGITS: dict[str, Loss] = {
    "kd": lambda s, t: kd_divergence(s, t, temperature=4.0),
    "standardised": lambda s, t: standardised_kd_loss(s, t, temperature=2.0),
    "dkd": lambda s, t: dkd_loss(s, t, LABELS.to(s.device), **DKD),
}
EMBEDDINGS: dict[str, Loss] = {
    "rkd": lambda s, t: rkd_loss(s, t, distance=25.0, angle=50.0),
    "rkd_distance": rkd_distance_loss,
    "rkd_angle": rkd_angle_loss,
    "pkt": pkt_loss,
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


PAIRS = same_class_pairs(LABELS)
CENTERS, TEACHER_LOGITS = noise(5, 9, seed=2), noise(B, 7, seed=3).round()
STAGE1 = {"tau1": 4.0, "margin": 2.0, "negatives": "all", "weight": None, "pairs": PAIRS}


def stage1(relation: str) -> Loss:
    return lambda s, t: stage1_loss(s, t, LABELS, relation=relation, **STAGE1)[0]


def stage2(centers: Tensor | None) -> Loss:
    settings: dict[str, Any] = {"tau2": 2.0, "lambd": 10.0, "tau_on": "both", "weighted": True}
    return lambda s, t: teaching_loss(
        s, t, LABELS, centers, teacher_logits=TEACHER_LOGITS.to(t), **settings
    )


MINED = {relation: stage1(relation) for relation in RELATIONS}
TAUGHT = {"global centres": stage2(CENTERS), "local centres": stage2(None)}


def kd(s: Tensor, t: Tensor) -> Tensor:
    return torch.stack([*kd_loss(s, t, LABELS, temperature=4.0, alpha=0.9).values()]).sum()


def vid(s: Tensor, t: Tensor) -> Tensor:
    return vid_loss(s, t, fixed(VidRegressor(s.shape[1], t.shape[1]), s))


def fitnet(s: Tensor, t: Tensor) -> Tensor:
    return fitnet_loss(s, t, fixed(fitnet_regressor(s.shape[1], t.shape[1]), s))


def fixed(regressor: Any, s: Tensor) -> Any:
    """Return the same weights in every call, in float64 if the maps are."""
    generator = torch.Generator().manual_seed(0)
    for parameter in regressor.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, generator=generator)
    return regressor.double() if s.dtype == torch.float64 else regressor


MAPS: dict[str, Loss] = {
    "at": at_loss, "nst": nst_loss, "sp": sp_loss, "vid": vid, "fitnet": fitnet,
}  # fmt: skip
SHAPES = (
    dict.fromkeys([*LOGITS, "kd_loss"], ((B, 5), (B, 5)))
    | dict.fromkeys([*EMBEDDINGS, *MINED], ((B, 6), (B, 9)))
    | dict.fromkeys(TAUGHT, ((B, 5), (B, 9)))
    | dict.fromkeys(MAPS, ((B, 3, 8, 8), (B, 4, 4, 4)))
)
LOSSES = LOGITS | {"kd_loss": kd} | EMBEDDINGS | MINED | TAUGHT | MAPS
every_loss = pytest.mark.parametrize("name", LOSSES)


def pair(name: str) -> tuple[Tensor, Tensor]:
    student, teacher = SHAPES[name]
    return noise(*student).requires_grad_(), noise(*teacher, seed=1).requires_grad_()


def gradient_of(loss: Tensor, leaf: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


# All of them


@every_loss
def test_only_the_student_gets_a_gradient(name: str) -> None:
    student, teacher = pair(name)
    loss = LOSSES[name](student, teacher)
    assert loss.shape == () and loss > 0
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None and (student.grad != 0).any()


@every_loss
def test_its_gradient_is_that_of_its_value(name: str) -> None:
    student, teacher = pair(name)
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[name](s, teacher.detach()), student, fast_mode=True
    )


@every_loss
def test_half_precision_is_computed_in_float32(name: str) -> None:
    student, teacher = (x.detach().bfloat16() for x in pair(name))
    exact = LOSSES[name](student.double(), teacher.double())
    loss = LOSSES[name](student.requires_grad_(), teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-6)
    assert gradient_of(loss, student).dtype == torch.bfloat16


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    student, teacher = (x.detach().float() for x in pair(name))
    expected = LOSSES[name](student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert (student.flatten(1) @ student.flatten(1).T).dtype == torch.bfloat16
        loss = LOSSES[name](student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@every_loss
def test_nothing_waits_for_the_device(name: str) -> None:
    """Fake tensors have shapes but no values: anything that needs a value on the host raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        shapes = SHAPES[name]
        student = torch.empty(*shapes[0], requires_grad=True)
        LOSSES[name](student, torch.empty(*shapes[1])).backward()
        assert student.grad is not None


def degenerate(kind: str, x: Tensor) -> Tensor:
    x = x.detach().clone()
    if kind == "two equal":
        x[1] = x[0]
    elif kind == "all equal":
        x[:] = x[0]
    elif kind == "constant":
        x[:] = 0.5
    elif kind == "one of zeros":
        x[2] = 0
    elif kind == "all zeros":
        x[:] = 0
    elif kind == "a channel of zeros":
        x[:, 1] = 0
    return x


KINDS = ("two equal", "all equal", "constant", "one of zeros", "all zeros", "a channel of zeros")


@every_loss
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_batches(name: str, kind: str) -> None:
    """Finite, and no gradient that would end a training.

    Standardised logits are an exception, as their formula divides by as little as 1e-7. So are
    mined relations, whose embeddings are normalised.
    """
    student, teacher = (x.detach() for x in pair(name))
    odd_student, odd_teacher = degenerate(kind, student), degenerate(kind, teacher)
    for s, t in ((odd_student, teacher), (student, odd_teacher), (odd_student, odd_teacher)):
        for dtype in (torch.float32, torch.float64):
            leaf = s.to(dtype, copy=True).requires_grad_()
            loss = LOSSES[name](leaf, t.to(dtype))
            gradient = gradient_of(loss, leaf)
            assert loss.isfinite()
            assert gradient.isfinite().all()
            if name not in MINED:
                assert gradient.abs().max() < (1e9 if name == "standardised" else 1e3)


@pytest.mark.parametrize("name", [*EMBEDDINGS, "at", "nst", "sp"])
def test_a_batch_of_one_image(name: str) -> None:
    student, teacher = (x.detach()[:1] for x in pair(name))
    student.requires_grad_()
    loss = LOSSES[name](student, teacher)
    assert loss.isfinite() and gradient_of(loss, student).isfinite().all()


@pytest.mark.parametrize("name", [*LOGITS, *EMBEDDINGS, "at", "nst", "sp"])
def test_student_equal_to_teacher_costs_nothing(name: str) -> None:
    student = pair(name)[0]
    loss = LOSSES[name](student, student)
    assert loss.abs() < 1e-12
    assert gradient_of(loss, student).abs().max() < 1e-8  # PKT: its eps


# On logits


def test_standardised() -> None:
    z = standardised(5 + 3 * noise(B, 7))
    torch.testing.assert_close(z.mean(1), torch.zeros(B).double())
    torch.testing.assert_close(z.std(1), torch.ones(B).double(), rtol=1e-6, atol=0)
    assert (standardised(torch.full((2, 4), 7.0)) == 0).all()


def test_decoupled_terms_make_up_the_classic_loss() -> None:
    """KL = KL(b_T || b_S) + (1 - p_y) KL(q_T || q_S), image by image."""
    for i in range(B):
        row = noise(B, 5)[i : i + 1], noise(B, 5, seed=1)[i : i + 1]
        beta = 1 - (row[1] / 4).softmax(1)[0, LABELS[i]].item()
        ours = dkd_loss(*row, LABELS[i : i + 1], alpha=1.0, beta=beta, temperature=4.0)
        torch.testing.assert_close(ours, kd_divergence(*row, temperature=4.0))


def test_dkd_of_sure_networks() -> None:
    """p_y is 1 to the last bit of float32; log (1 - p_y) is not -inf."""
    student = torch.tensor([[200.0, 0.0, -300.0]], requires_grad=True)
    loss = dkd_loss(student, torch.tensor([[-500.0, 90.0, 0.0]]), torch.tensor([0]), **DKD)
    assert loss.isfinite() and gradient_of(loss, student).isfinite().all()


# On embeddings


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
def test_relations_ignore_scale_place_and_rotation(loss: Loss) -> None:
    teacher = noise(B, 6)
    rotation = torch.linalg.qr(noise(6, 6, seed=2)).Q
    assert loss(3 * teacher @ rotation + 5, teacher) < 1e-20
    assert loss(noise(B, 6, seed=1), teacher) > 1e-3


def test_duplicates_count_in_the_mean_distance() -> None:
    """Three points on a line, one of them twice: d / mean d, with 12 ordered pairs."""
    x = torch.tensor([[0.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
    d = (x - x.T).abs().clamp(min=1e-6).fill_diagonal_(0)
    y = noise(4, 3)
    e = torch.cdist(y, y)
    expected = F.smooth_l1_loss(d / d.sum() * 12, e / e.sum() * 12)
    torch.testing.assert_close(rkd_distance_loss(x, y), expected, rtol=1e-12, atol=0)


# On maps


def test_same_size() -> None:
    a, b = noise(2, 3, 8, 6), noise(2, 5, 4, 3)
    pooled, kept = same_size(a, b)
    assert kept is b
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(a, (4, 3)))
    torch.testing.assert_close(same_size(b, a)[1], pooled)
    assert [x.shape for x in same_size(noise(1, 2, 7, 3), noise(1, 2, 5, 4))] == [(1, 2, 5, 3)] * 2
    uneven = noise(1, 2, 7, 7)
    torch.testing.assert_close(
        same_size(uneven, noise(1, 2, 3, 3))[0], F.adaptive_avg_pool2d(uneven, 3)
    )


@pytest.mark.parametrize("name", ["at", "nst", "vid", "fitnet"])
def test_the_larger_map_is_pooled_first(name: str) -> None:
    large, small = noise(B, 3, 8, 8), noise(B, 4, 4, 4, seed=1)
    by_hand = LOSSES[name](F.adaptive_avg_pool2d(large, 4), small)
    torch.testing.assert_close(LOSSES[name](large, small), by_hand)
    by_hand = LOSSES[name](small, F.adaptive_avg_pool2d(large, 4))
    torch.testing.assert_close(LOSSES[name](small, large), by_hand)


@pytest.mark.parametrize("name", ["vid", "fitnet"])
def test_a_regressor_learns(name: str) -> None:
    torch.manual_seed(0)
    s, t = noise(B, 3, 4, 4).float().requires_grad_(), noise(B, 4, 4, 4, seed=1).float()
    regressor = VidRegressor(3, 4) if name == "vid" else fitnet_regressor(3, 4)
    vid_or_fitnet: Any = vid_loss if name == "vid" else fitnet_loss
    optimizer = torch.optim.SGD(regressor.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = vid_or_fitnet(s, t, regressor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert all(p.grad is not None for p in regressor.parameters())
    assert s.grad is not None


def test_the_first_variance() -> None:
    torch.testing.assert_close(VidRegressor(2, 3).variance(), torch.full((3,), 5.0))


def test_a_regressor_of_other_channels() -> None:
    message = r"^regressor: gives \(8, 1, 4, 4\), the teacher's map is \(8, 4, 4, 4\)$"
    with pytest.raises(ValueError, match=message):
        fitnet_loss(noise(B, 3, 4, 4).float(), noise(B, 4, 4, 4), fitnet_regressor(3, 1))


# Contrastive: CRD


def crd(n_images: int = 40) -> CrdMemory:
    torch.manual_seed(0)
    return CrdMemory(6, 9, n_images, features=16, temperature=0.07, momentum=0.8)


def crd_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(40, generator=generator)[:B]
    negatives = torch.randint(40, (B, 11), generator=generator)
    return (
        noise(B, 6, seed=seed).float(),
        noise(B, 9, seed=seed + 1).float(),
        index,
        torch.cat([index[:, None], negatives], 1),
    )


def test_crd_gradients() -> None:
    memory, (student, teacher, *indices) = crd(), crd_batch()
    student.requires_grad_(), teacher.requires_grad_()
    memory(student, teacher, *indices).backward()
    assert teacher.grad is None
    assert student.grad is not None and (student.grad != 0).any()
    assert all(p.grad is not None and (p.grad != 0).any() for p in memory.parameters())
    assert {n for n, _ in memory.named_parameters()} == {
        f"embed_{side}.linear.{name}" for side in "st" for name in ("weight", "bias")
    }


def test_crd_memories_begin_uniform() -> None:
    """tests/test_baselines.py tests how a batch changes them."""
    memory, bound = crd(), (16 / 3) ** -0.5
    for begun in (memory.get_buffer("memory_v1"), memory.get_buffer("memory_v2")):
        assert 0.95 * bound < begun.max() <= bound and -bound <= begun.min() < -0.95 * bound


def test_crd_survives_a_checkpoint(tmp_path: Path) -> None:
    """Stopped after two steps and begun anew in another module: the same bits."""
    memory = crd()
    for seed in (0, 3):
        memory(*crd_batch(seed=seed))
    torch.save(memory.state_dict(), tmp_path / "crd.pt")
    torch.manual_seed(99)
    other = CrdMemory(6, 9, 40, features=16, temperature=0.07, momentum=0.8)
    other.load_state_dict(torch.load(tmp_path / "crd.pt"))
    batch = crd_batch(seed=5)
    losses = [m(*batch) for m in (memory, other)]
    assert torch.equal(*losses)
    for name, value in memory.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    for parameter, again in zip(memory.parameters(), other.parameters(), strict=True):
        assert torch.equal(
            gradient_of(memory(*batch), parameter), gradient_of(other(*batch), again)
        )


def test_crd_in_half_precision_and_under_autocast() -> None:
    batch = crd_batch()
    expected = crd()(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crd()(*batch), expected)
    half = (batch[0].bfloat16(), batch[1].bfloat16(), *batch[2:])
    loss = crd()(*half)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)


def test_crd_does_not_wait_for_the_device() -> None:
    with FakeTensorMode():
        memory = CrdMemory(6, 9, 40, features=16, temperature=0.07, momentum=0.8)
        index = torch.empty(B, dtype=torch.long)
        contrast = torch.empty(B, 12, dtype=torch.long)
        memory(torch.empty(B, 6), torch.empty(B, 9), index, contrast).backward()


def test_crd_is_its_definition() -> None:
    """Term by term, with exp and log as written in the paper."""
    v, memory = F.normalize(noise(2, 4)), F.normalize(noise(10, 4, seed=1)).requires_grad_()
    index = torch.tensor([[3, 1, 7, 7], [0, 9, 2, 4]])
    scores = memory_scores(v, memory, index, temperature=0.5)
    assert not scores.requires_grad
    z = normaliser(scores, 10)
    p = torch.stack([torch.stack([v[i] @ memory[j] for j in index[i]]) for i in range(2)])
    p = (p / 0.5).exp()
    torch.testing.assert_close(z, p.mean() * 10)
    p, c = p / z, 3 / 10 + 1e-7
    expected = -((p[:, 0] / (p[:, 0] + c)).log().sum() + (0.3 / (p[:, 1:] + c)).log().sum()) / 2
    torch.testing.assert_close(crd_loss(scores, z, n_images=10), expected)


# Negatives


def drawn(labels: Tensor, batch: Tensor, n: int, seed: int = 0) -> Tensor:
    return draw_negatives(labels, batch, n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 16, 30, 200])
def test_negatives_are_of_other_classes(n: int) -> None:
    """40 images of 4 classes: 30 negatives each, so 200 are drawn with replacement."""
    labels = torch.arange(40) % 4
    negatives = drawn(labels, labels[:12], n)
    assert negatives.shape == (12, n)
    assert (labels[negatives] != labels[:12, None]).all()
    repeated = [n - len(row.unique()) for row in negatives]
    assert all(r == 0 for r in repeated) if n <= 30 else all(r > 0 for r in repeated)
    assert n == 30 or not torch.equal(negatives[0].sort()[0], negatives[4].sort()[0])


def test_too_few_negatives_for_one_image_are_repeated_for_all() -> None:
    labels = torch.tensor([0] * 30 + [1] * 5)  # class 0 has 5 negatives, class 1 has 30
    negatives = drawn(labels, torch.tensor([0, 1]), 20)
    assert (labels[negatives] == torch.tensor([[1], [0]])).all()
    assert len(negatives[1].unique()) < 20


@pytest.mark.parametrize("n", [5, 60])
def test_negatives_are_uniform(n: int) -> None:
    """20 of 25 images qualify; each is drawn equally often, to 5 standard deviations."""
    labels = torch.tensor([2, 0, 1, 3, 0] * 5)
    rows, own = 4000, 0
    counts = drawn(labels, torch.full((rows,), own), n).flatten().bincount(minlength=25)
    qualified = labels != own
    assert (counts[~qualified] == 0).all()
    expected = rows * n / int(qualified.sum())
    assert (counts[qualified] - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("n", [10, 100])
def test_the_generator_decides_the_negatives(n: int) -> None:
    labels = torch.arange(40) % 4
    torch.manual_seed(1)
    first = drawn(labels, labels[:6], n)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(labels, labels[:6], n))
    assert not torch.equal(first, drawn(labels, labels[:6], n, seed=1))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(first, draw_negatives(labels, labels[:6], n, generator))
    assert not torch.equal(first, draw_negatives(labels, labels[:6], n, generator))


def test_many_rows_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 4
    whole = drawn(labels, labels[:12], 10)
    monkeypatch.setattr("harness.distill.negatives.KEYS_AT_ONCE", 100)
    assert torch.equal(drawn(labels, labels[:12], 10), whole)


def test_no_negatives_at_all() -> None:
    with pytest.raises(ValueError, match=r"^labels: "):
        drawn(torch.zeros(9, dtype=torch.long), torch.zeros(2, dtype=torch.long), 3)


# For users


def test_every_loss_is_exported() -> None:
    losses = {n for n in vars(harness.distill) if re.search("_loss$|_divergence$", n)}
    assert losses <= set(harness.distill.__all__)


def test_the_page_names_every_function() -> None:
    page = (Path(__file__).parent.parent / "docs" / "losses.md").read_text()
    named = set(re.findall(r"`(\w+)", page))
    assert set(harness.distill.__all__) - {"UnitProjection"} <= named


class Foreign(nn.Module):
    """A network that knows nothing of this project."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU())
        self.head = nn.Linear(width, 3)


def test_the_pages_example_trains_a_student() -> None:
    page = (Path(__file__).parent.parent / "docs" / "losses.md").read_text()
    (example,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    torch.manual_seed(0)
    student, teacher = Foreign(8), Foreign(16)
    before = [p.clone() for p in student.parameters()]
    batch = torch.randn(16, 3, 2, 2), torch.arange(16) % 3
    losses = []
    for n_batches in (1, 30):
        scope: dict[str, Any] = {"student": student, "teacher": teacher}
        exec(example, scope | {"batches": [batch] * n_batches}, scope)
        losses.append(scope["loss"].item())
    assert losses[1] < 0.7 * losses[0]
    after = student.parameters()
    assert all(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    assert all(p.grad is None for p in teacher.parameters())
