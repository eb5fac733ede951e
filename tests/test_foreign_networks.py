"""Networks that a library or the user has written: what is found in them, and their input."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from helpers import Output, one_error_line, write_experiment
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from harness.cli import main
from harness.common.errors import UserError
from harness.experiment.file import parse, read
from harness.networks import NETWORKS, build
from harness.networks.base import ShapesOnly
from harness.networks.check import examine
from harness.networks.options import NetworkOptions
from harness.networks.pretrained import load_weights
from harness.networks.wrapped import WrappedNetwork, layout_of

# Fast networks of each family for tiny images, as `network` entries of an experiment.
OWN_SOURCE = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.size = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.Sequential(nn.Conv2d(width, 8, 3, 2, 1), nn.ReLU(True))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = nn.functional.dropout(self.pool(self.size(x)).mean((2, 3)), 0.5, self.training)
        return self.head(x)
"""
FOREIGN: dict[str, dict[str, Any]] = {
    "torchvision": {"name": "shufflenet_v2_x0_5", "stem": "small"},
    "timm": {"name": "test_resnet", "input_size": "data"},
    "import": {"path": "my_nets.py:MyNet"},
}


def write_source(folder: Path, change: tuple[str, str] = ("", "")) -> Path:
    path = folder / "my_nets.py"
    path.write_text(OWN_SOURCE.replace(*change))
    return path


def options_of(family: str, folder: Path, **more: Any) -> NetworkOptions:
    fields = FOREIGN[family] | more
    if family == "import" and "path" not in more:
        fields["path"] = f"{write_source(folder)}:MyNet"
    return NETWORKS[family].model_validate({"network": family, **fields})


def torchvision_network(name: str, **more: Any) -> WrappedNetwork:
    made = build("torchvision", 5, name=name, **more)
    assert isinstance(made, WrappedNetwork)
    return made


@pytest.mark.parametrize(
    ("name", "head", "width", "maps", "stem"),
    [
        ("resnet18", "fc", 512, {f"layer{i}": 64 * 2 ** (i - 1) for i in (1, 2, 3, 4)}, "conv1"),
        (
            "vgg11",
            "classifier.6",
            4096,
            {"features.9": 256, "features.14": 512, "features.19": 512, "features.20": 512},
            "features.0",
        ),
        (
            "densenet121",  # a ReLU overwrites the last batch norm's output
            "classifier",
            1024,
            {f"features.denseblock{i}": c for i, c in enumerate((256, 512, 1024, 1024), start=1)},
            "features.conv0",
        ),
        (
            "mobilenet_v2",
            "classifier.1",
            1280,
            {"features.3": 24, "features.6": 32, "features.13": 96, "features.18": 1280},
            "features.0.0",
        ),
        (
            "inception_v3",  # without the auxiliary classifier
            "fc",
            2048,
            {"Conv2d_4a_3x3": 192, "Mixed_5d": 288, "Mixed_6e": 768, "Mixed_7c": 2048},
            "Conv2d_1a_3x3.conv",
        ),
        (
            "swin_t",  # channels last, but for the last one
            "head",
            768,
            {"features.1": 96, "features.3": 192, "features.5": 384, "permute": 768},
            "features.0.0",
        ),
        ("vit_b_32", "heads.head", 768, {}, "conv_proj"),
    ],
)
def test_the_layout_of_classifiers(
    name: str, head: str, width: int, maps: dict[str, int], stem: str
) -> None:
    layout = layout_of(NETWORKS["torchvision"](network="torchvision", name=name))
    assert (layout.head, layout.embedding_dim, layout.stem) == (head, width, stem)
    assert {each.name: each.channels for each in layout.maps} == maps
    assert [each.channels_last for each in layout.maps] == (
        [True, True, True, False] if name == "swin_t" else [False] * len(maps)
    )


@pytest.mark.parametrize("name", ["test_resnet", "efficientnet_b0"])
def test_maps_are_the_features_that_timm_names(name: str) -> None:
    layout = layout_of(NETWORKS["timm"](network="timm", name=name))
    with ShapesOnly():
        stages = timm.create_model(name).feature_info
    assert [each.name for each in layout.maps] == [stage["module"] for stage in stages[-4:]]
    assert [each.channels for each in layout.maps] == [stage["num_chs"] for stage in stages[-4:]]


@pytest.mark.parametrize("family", FOREIGN)
def test_it_computes_what_the_library_does(family: str, tmp_path: Path) -> None:
    """With the library's own names of weights, and as itself in training."""
    options = options_of(family, tmp_path, stem="own", input_size="data")
    ours = options.build(5)
    assert isinstance(ours, WrappedNetwork)
    if family == "torchvision":
        theirs: nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    elif family == "timm":
        theirs = timm.create_model("test_resnet", num_classes=5)
    else:
        scope: dict[str, Any] = {}
        exec(OWN_SOURCE, scope)
        theirs = scope["MyNet"](5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 32, 32)
    for is_training in (True, False):
        ours.train(is_training), theirs.train(is_training)
        torch.manual_seed(0)
        expected = theirs(x)
        torch.manual_seed(0)
        embedding, logits = ours.embed_and_classify(x)
        assert torch.equal(logits, expected)
        torch.testing.assert_close(ours.fc(embedding), logits)
    assert torch.equal(ours.embed_with_maps(x)[0], embedding)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert not [m for m in ours.modules() if m._forward_hooks or m._forward_pre_hooks]


@pytest.mark.parametrize("family", FOREIGN)
def test_maps_have_their_channels_and_gradients(family: str, tmp_path: Path) -> None:
    network = options_of(family, tmp_path).build(5)
    x = torch.randn(2, 3, 32, 32)
    embedding, maps = network.embed_with_maps(x)
    assert embedding.shape == (2, network.embedding_dim)
    assert tuple(m.shape[1] for m in maps) == network.map_channels and len(maps) > 1
    sizes = [m.shape[2] for m in maps]
    assert sizes == sorted(sizes, reverse=True)
    gradients = torch.autograd.grad(embedding.square().sum(), maps, allow_unused=True)
    assert all(g is not None and (g != 0).any() for g in gradients)


def test_maps_that_lie_channels_last_are_turned() -> None:
    network = torchvision_network("swin_t", input_size="data")
    _, maps = network.embed_with_maps(torch.randn(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 96 * 2**i, 16 >> i, 16 >> i) for i in range(4)]


def test_a_small_stem_keeps_the_size() -> None:
    network = torchvision_network("resnet18", stem="small").eval()
    _, maps = network.embed_with_maps(torch.randn(2, 3, 16, 16))
    assert [m.shape[2] for m in maps] == [16, 8, 4, 2]
    conv = network.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.bias is None
    assert network.state_dict().keys() == torchvision_network("resnet18").state_dict().keys()


def pixels_and(mean: float, std: float) -> tuple[Tensor, Tensor]:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return pixels, (pixels - mean) / std


@pytest.mark.parametrize("family", ["torchvision", "timm"])
def test_images_come_in_the_networks_own_normalisation_and_size(
    family: str, tmp_path: Path
) -> None:
    pixels, x = pixels_and(0.25, 0.5)
    network = options_of(family, tmp_path, stem="own", input_size="own").build(5).eval()
    assert isinstance(network, WrappedNetwork)
    network.expect([0.25] * 3, [0.5] * 3)
    if family == "torchvision":
        mean, std, size = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
    else:
        own = timm.create_model("test_resnet").pretrained_cfg
        mean, std, size = own["mean"], own["std"], own["input_size"][1]
    wanted = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(
        network.adapted(x), F.interpolate(wanted, (size, size), mode="bilinear")
    )
    torch.testing.assert_close(network(x), network.body(network.adapted(x)))


def test_the_experiment_chooses_normalisation_and_size() -> None:
    pixels, x = pixels_and(0.25, 0.5)
    chosen = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    for options, expected in (
        ({"normalisation": "data", "input_size": "data"}, x),
        ({"normalisation": chosen, "input_size": "data"}, pixels),
        ({"normalisation": "data", "stem": "small"}, x),
        (
            {"normalisation": "data", "input_size": 8},
            F.interpolate(x, (8, 8), mode="bilinear", antialias=True),
        ),
    ):
        network = torchvision_network("shufflenet_v2_x0_5", **options)
        network.expect([0.25] * 3, [0.5] * 3)
        torch.testing.assert_close(network.adapted(x), expected, msg=str(options))


@pytest.mark.parametrize("size", [{}, {"input_size": "own"}, {"input_size": "data"}])
def test_a_network_of_ones_own_gets_the_images_as_they_are(
    size: dict[str, Any], tmp_path: Path
) -> None:
    network = options_of("import", tmp_path, **size).build(5)
    assert isinstance(network, WrappedNetwork)
    for side in (8, 64):
        x = torch.zeros(1, 3, side, side)
        assert network.adapted(x) is x
    scaled = options_of("import", tmp_path, input_size=16).build(5)
    assert isinstance(scaled, WrappedNetwork) and scaled.adapted(x).shape[2:] == (16, 16)


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_gives_all_but_the_replaced_layers(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    published = torchvision.models.shufflenet_v2_x0_5(num_classes=1000).state_dict()
    path = tmp_path / f"weights{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(published, path)  # type: ignore[operator]
    options = options_of("torchvision", tmp_path, weights=str(path))
    network = options.build(5)
    assert options.weights is not None
    load_weights(network, options.weights)
    new = {name for name, tensor in network.state_dict().items()
           if not torch.equal(tensor, published[name])}  # fmt: skip
    assert new == {"conv1.0.weight", "fc.weight", "fc.bias"}


def test_weights_with_a_name_are_looked_for_in_pytorchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def problem(family: str, **fields: Any) -> str:
        with pytest.raises(ValidationError) as caught:
            NETWORKS[family].model_validate({"network": family, **fields})
        return str(caught.value)

    resnet = {"name": "resnet18", "weights": "IMAGENET1K_V1"}
    text = problem("torchvision", **resnet)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in text
    assert f"save it as {folder}/resnet18-f37072fd.pth" in text
    (folder / "resnet18-f37072fd.pth").write_bytes(b"half a download")
    assert "is broken" in problem("torchvision", **resnet)
    misspelt = resnet | {"weights": "IMAGENET1K"}
    assert "did you mean 'IMAGENET1K_V1'" in problem("torchvision", **misspelt)

    tiny = {"name": "test_resnet", "weights": "r160_in1k"}
    assert f"save it as {folder}/test_resnet.r160_in1k.safetensors" in problem("timm", **tiny)
    (folder / "test_resnet.r160_in1k.safetensors").write_bytes(b"some")
    found = NETWORKS["timm"].model_validate(tiny | {"network": "timm"})
    own = timm.create_model("test_resnet").pretrained_cfg
    dumped = found.model_dump(mode="json", by_alias=True)
    assert len(dumped["pretrained"]) == 64
    assert dumped["input_size"] == own["input_size"][1], "of these weights, not of the network"
    assert dumped["normalisation"]["mean"] == list(own["mean"])
    assert "timm has no 'a1'" in problem("timm", **tiny | {"weights": "a1"})


# -- a network of one's own ------------------------------------------------------------------------


def test_a_fingerprint_has_the_content_of_the_source_and_no_place(tmp_path: Path) -> None:
    def described(folder: Path, change: tuple[str, str] = ("", "")) -> str:
        folder.mkdir()
        write_source(folder, change)
        raw = {"name": "x", "dataset": "digits", "methods": ["plain"],
               "teacher": {"network": "resnet", "depth": 8},
               "students": [{"network": "import", "path": "my_nets.py:MyNet"}]}  # fmt: skip
        student = read(write_experiment(folder / "x.yaml", raw)).students[0]
        assert student.label == "MyNet" and student.files[0].path == str(folder / "my_nets.py")
        return student.model_dump_json(by_alias=True)

    one = described(tmp_path / "a")
    assert one == described(tmp_path / "b")
    assert one != described(tmp_path / "c", ("0.5", "0.4"))
    assert str(tmp_path) not in one
    again = NETWORKS["import"].model_validate_json(one)
    with pytest.raises(UserError, match="is not on this machine"):
        again.build(5)
    again = again.located({again.files[0].sha256: str(write_source(tmp_path))})
    assert again.build(5).embedding_dim == 8
    write_source(tmp_path, ("0.5", "0.4"))
    changed = again.located({again.files[0].sha256: str(tmp_path / "a" / ".." / "my_nets.py")})
    with pytest.raises(UserError, match="has changed"):
        changed.build(5)


# -- refusals --------------------------------------------------------------------------------------

TORCHVISION = {"network": "torchvision", "name": "resnet18"}
REFUSED: dict[str, dict[str, Any]] = {
    "name: torchvision has no classifier 'resnet19'; did you mean 'resnet18'": {"name": "resnet19"},
    "no classifier 'fcn_resnet50'": {"name": "fcn_resnet50"},
    "takes no 'wieghts'; did you mean 'weights'": {"wieghts": "a.pth"},
    "num_classes: ": {"num_classes": 7},
    "squeezenet1_0 does not end in a linear layer": {"name": "squeezenet1_0"},
    "switch off its auxiliary outputs": {"name": "inception_v3", "aux_logits": True},
    "vit_b_32 cannot take images of 8x8 pixels": {"name": "vit_b_32", "input_size": "data"},
    "stem: vgg11-small has no first convolution with a stride": {"name": "vgg11", "stem": "small"},
    "stem: convnext_tiny-small begins with patches": {"name": "convnext_tiny", "stem": "small"},
    "maps: resnet18 has no module 'layr1'; did you mean 'layer1'": {"maps": ["layr1"]},
    "maps: the output of fc in resnet18 is no map": {"maps": ["layer1", "fc"]},
    "timm has no network 'rsnet18'; did you mean": {"network": "timm", "name": "rsnet18"},
    "timm-dla34 does not end in a linear layer": {"network": "timm", "name": "dla34"},
    "has no MyNett; did you mean 'MyNet'": {"path": "my_nets.py:MyNett"},
    "my_nets.py:MyNet takes no 'deep'": {"path": "my_nets.py:MyNet", "deep": 1},
    "bad.py fails: ModuleNotFoundError": {"path": "bad.py:Net"},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_cannot_be_used_is_said_in_one_line(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path)
    Path("bad.py").write_text("import no_such_package\n")
    fields = TORCHVISION | REFUSED[problem]
    if "path" in fields:
        fields = REFUSED[problem] | {"network": "import"}
    options = NETWORKS[fields["network"]].model_validate(fields)
    with pytest.raises(UserError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        examine(options, 8, 8)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"input_size": 4}, "expected 'own', 'data' or 8 to 1024 pixels"),
        ({"normalisation": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, "expected 'own', 'data', or"),
        ({"network": "timm", "name": "resnet18.a1_in1k"}, "`weights: a1_in1k`"),
        ({"weights": 3}, "expected the path of a file, or the name of weights"),
        ({"network": "import", "path": "my_nets.py"}, "write FILE.py:NAME"),
        ({"network": "import", "path": 4}, "write FILE.py:NAME"),
        ({"network": "import", "path": "none.py:Net"}, "cannot read"),
    ],
    ids=str,
)
def test_fields_that_cannot_be(fields: dict[str, Any], problem: str) -> None:
    fields = TORCHVISION | fields
    with pytest.raises(ValidationError, match=problem):
        NETWORKS[fields["network"]].model_validate(fields)


def test_a_file_without_an_ending_is_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best").write_bytes(b"weights")
    for weights in ("best", "./best"):
        teacher = TORCHVISION | {"weights": weights}
        (file,) = read(write_experiment(Path("x.yaml"), teacher=teacher)).networks[0].files
        assert file.path == str(tmp_path / "best")


def test_a_name_without_its_family() -> None:
    raw = {"name": "x", "dataset": "digits", "teacher": "resnet18", "students": ["resnet18"]}
    with pytest.raises(UserError, match=r"write `\{network: torchvision, name: resnet18\}`"):
        parse(raw)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"teacher": {"name": "resnet19"}}, "teacher.name: torchvision has no classifier"),
        ({"students": [{"maps": ["layer1", "layer4"]}]}, "'at' compares maps pair by pair"),
        ({"students": [{"name": "vit_b_32"}]}, "'at' compares maps, but vit_b_32 has none"),
    ],
    ids=str,
)
def test_a_plan_refuses_them(
    change: dict[str, Any],
    problem: str,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = {"name": "x", "dataset": {"name": "digits"}, "network": TORCHVISION, "teacher": {},
           "students": [{}], "methods": ["at"]}  # fmt: skip
    file = write_experiment(tmp_path / "x.yaml", raw | change)
    if "teacher" not in change:  # one process is enough to see that they work
        monkeypatch.setattr("harness.run.networks.in_child", lambda f, *given: f(*given))
    assert main(["plan", str(file), "--store", str(tmp_path / "runs"), "--no-estimate"]) == 2
    assert problem in one_error_line(capsys.readouterr().err)
