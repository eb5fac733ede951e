"""YAML as people mean it, and the readers of experiment and tuning files on anything at all."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.common.errors import UserError
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse, read
from harness.experiment.plain_yaml import MOST_VALUES, InvalidYaml, parse_yaml
from harness.experiment.sources import apply_overrides
from harness.tune.tuning_file import Tuning, read_tuning

TEXT = """\
name: tiny
dataset: {name: digits, validation: 297}
network: {network: wide_resnet, dropout: 0.0}
teacher: {depth: 10, width: 1}
students: [{depth: 10, width: 1}]
methods: [plain, kd]
training: {epochs: 1, lr: 0.1}
"""
TUNING = """\
name: tuned
experiment: tiny.yaml
trials: 4
startup_trials: 2
batch: 2
methods: {kd: {kd.temperature: [1, 4]}}
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1), ("1E3", 1000), ("5.e-4", 5e-4), ("-2e1", -20), (".5", 0.5), ("+1e2", 100),
        ("1.0e2", 100.0), ("1_000", 1000), ("0x1F", 31), ("0o17", 15), ("0", 0), ("-7", -7),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None),
        ("on", "on"), ("no", "no"), ("Yes", "Yes"), ("y", "y"), ("12:30:45", "12:30:45"),
        ("2026-02-28", "2026-02-28"), ("2026-02-30", "2026-02-30"), ("1e", "1e"), ("e1", "e1"),
        ("'1e-1'", "1e-1"), ("1.2.3", "1.2.3"), ("2026-99-99 99:99:99", "2026-99-99 99:99:99"),
        ("{a: &t {b: 1}, c: {<<: *t, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["1e-1", "2.5e-1", "1.e-1", "'1e-1'"])
def test_a_number_is_one_in_every_field(tmp_path: Path, text: str) -> None:
    value = float(text.strip("'"))
    raw = yaml.safe_load(TEXT) | {"dataset": {"name": "folder", "path": "x"}}
    for field in ("dataset.validation", "dataset.test_size", "training.lr", "stage2.gamma"):
        section, _, name = field.partition(".")
        assert (
            getattr(getattr(parse(apply_overrides(raw, [f"{field}={text}"])), section), name)
            == value
        )
    more = apply_overrides(raw, ["training.epochs=20", f"epochs_scale={text}"])
    assert parse(more).training.epochs == round(20 * value)
    assert parse(apply_overrides(raw, ["training.epochs=2e1"])).training.epochs == 20
    (tmp_path / "tiny.yaml").write_text(TEXT)
    own = f"{{training.lr: {{low: {text}, high: 1e0}}, kd.temperature: [{text}, 4]}}"
    space = TUNING.replace("{kd.temperature: [1, 4]}", own)
    if "'" not in text:
        (tmp_path / "t.yaml").write_text(space + f"set: {{training: {{lr: {text}}}}}\n")
        tuning = read_tuning(tmp_path / "t.yaml")
        assert tuning.spaces["kd"]["kd.temperature"].ends == [value, 4]
        assert tuning.spaces["kd"]["training.lr"].ends == [value, 1]
        assert tuning.base.training.lr == value


BROKEN = {  # what follows seven lines -> its line that is at fault
    "training2: {epochs: {{ epochs }}, lr: 0.1}\n": 8,
    "{% if x %}\n": 8,
    "x: 1\ny: !!timestamp 2026-02-30\n": 9,
    "x: !!timestamp never\n": 8,
    "x: !!int one\n": 8,
    "x: !!bool maybe\n": 8,
    "x: !!float [1]\n": 8,
    "x: !!map 3\n": 8,
    "x: 010\n": 8,
    "x: " + "9" * 5000 + "\n": 8,
    "x: 0x_\n": 8,
    "[a, b]: 1\n": 8,
    "x: \a\n": 8,
    'x: "\\Uffffffff"\n': 8,
    "x: *unknown\n": 8,
    "x:\n\ty: 1\n": 9,
    "x: !!python/object/apply:os.getcwd []\n": 8,
    "---\nname: again\n": 8,
    "name: again\n": 8,
    "x: \udcff\n": 8,  # not UTF-8
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_refusal_names_the_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes((TEXT + text).encode(errors="surrogateescape"))
    for reader in (read, read_tuning):
        with pytest.raises(UserError, match=rf"^{path}: line {BROKEN[text]}: .*broken YAML") as e:
            reader(path)
        assert len(str(e.value).splitlines()) == 1


def test_no_value_in_an_assignment() -> None:
    for text in ("{{ x }}", "010", "!!timestamp 2026-02-30", "\a", "[" * 5000):
        with pytest.raises(UserError, match=r"^--set description: .* is not a YAML value \(.+\)$"):
            apply_overrides({}, [f"description={text}"])


def test_aliases_that_grow_and_circles() -> None:
    grow = "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    for text in (grow, "a: &a [*a]", "a: &a {b: *a}"):
        with pytest.raises(InvalidYaml, match=f"more than {MOST_VALUES} values"):
            parse_yaml(text)


PIECES = st.sampled_from(
    [*TEXT.splitlines(keepends=True), *TUNING.splitlines(keepends=True), "{{ x }}", "- ", ": ",
     "[", "]", "{", "}", "&a ", "*a", "!!int ", "!!set ", "!!binary ", "2026-02-30", "1e-1",
     "1e999", ".inf", ".nan", "-1", "~", "~nobody/x", "'", '"', "\\", "\n", "\t", "\0", "\x85", "#",
     "|\n",
     "---\n", "<<: ", "dataset: {name: folder, path: ", "seeds: ", "epochs_scale: ", "protocol: ",
     "tuned: ", "teacher: models:/x/1\n", "set: ", "published: x.csv\n", "\ud800"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["digits", "folder", "kd", "legacy", "~nobody", "1e-1", "wide_resnet"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["name", "preset", "depth", "width", "epochs", "lr", "low", "high", "path",
                         "choices", "kd", "stage2", "tau2", "settings", "milestones"]) | st.text(
            max_size=3),
        inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FEW = settings(max_examples=300, suppress_health_check=list(HealthCheck), derandomize=True)


def is_one_line(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        str(error).encode()
        return None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "tiny.yaml").write_text(TEXT)
    return folder


@given(text=st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=60))
@FEW
def test_any_text_is_an_experiment_or_one_line(place: Path, text: str) -> None:
    path = place / "any.yaml"
    for before in ("", TEXT):
        path.write_bytes((before + text).encode(errors="surrogatepass"))
        assert isinstance(is_one_line(read, path), Experiment | None)
    is_one_line(apply_overrides, {}, [f"a.b={text}"])


@given(text=st.lists(PIECES, max_size=8).map("".join))
@settings(FEW, max_examples=150)
def test_any_text_is_a_tuning_file_or_one_line(place: Path, text: str) -> None:
    path = place / "any-tuning.yaml"
    for before in ("", TUNING):
        path.write_bytes((before + text).encode(errors="surrogatepass"))
        assert isinstance(is_one_line(read_tuning, path), Tuning | None)


@given(
    field=st.sampled_from(["dataset", "teacher", "students", "methods", "training", "stage2",
                           "protocol", "seeds", "tuned", "epochs_scale", "network", "optimizer",
                           "dataset.validation", "dataset.path", "teacher.depth", "students.0"]),
    value=VALUES,
)  # fmt: skip
@FEW
def test_any_value_is_taken_or_refused_in_one_line(field: str, value: Any) -> None:
    raw = apply_overrides(yaml.safe_load(TEXT), [f"{field}=0"])
    node: Any = raw
    *parents, last = field.split(".")
    for parent in parents:
        node = node[parent]
    node[int(last) if isinstance(node, list) else last] = value
    assert isinstance(is_one_line(parse, raw), Experiment | None)
