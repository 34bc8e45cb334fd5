"""What a user gets from a wheel and from an editable install, seen from outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reattention_eval.methods import list_methods

CHECKOUT = Path(__file__).parents[1]
OPTIONAL = (
    "triton", "opencompass", "mmengine", "pandas", "matplotlib", "gguf", "flash_attn", "fa3_fwd",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=CHECKOUT, check=True)
    (archive,) = folder.glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(archive).extractall(site)
    return site


def run_outside(code: str, site: Path | None, cwd: Path) -> str:
    """Run Python in another folder; with `site`, from the wheel and not from the checkout."""
    path = "" if site is None else f"import sys; sys.path.insert(0, {str(site)!r}); "
    run = subprocess.run(
        [sys.executable, "-c", path + code], cwd=cwd, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_wheel_holds_both_packages_and_the_configurations(wheel):
    top = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"reattention_eval", "reattention_kernels"}
    assert (wheel / "reattention_eval/configs/eval_demo.py").is_file()
    assert (wheel / "reattention_eval/configs/models/__init__.py").is_file()
    assert (wheel / "reattention_eval/slurm/infer.sbatch").is_file()
    assert (wheel / "reattention_eval/paper/longbench.csv").is_file()
    assert (wheel / "reattention_eval/report/page/page.html.j2").is_file()
    for package in top:
        assert (wheel / package / "py.typed").is_file()
    (metadata,) = wheel.glob("*.dist-info")
    assert (
        "reattention-eval = reattention_eval.cli:app" in (metadata / "entry_points.txt").read_text()
    )
    assert list(metadata.rglob("LICENSE"))


def test_wheel_works_from_elsewhere(wheel, tmp_path):
    code = (
        "import reattention_eval, reattention_kernels; "
        "print(reattention_eval.__file__, reattention_kernels.__file__)"
    )
    places = run_outside(code, wheel, tmp_path).split()
    assert all(place.startswith(str(wheel)) for place in places)
    code = (
        "from reattention_eval.cli.configs import config_path; print(config_path('eval_demo.py'))"
    )
    assert run_outside(code, wheel, tmp_path).startswith(str(wheel))


def test_editable_install_works_from_elsewhere(tmp_path):
    code = "import reattention_eval, reattention_kernels; print(reattention_kernels.__file__)"
    place = Path(run_outside(code, None, tmp_path))
    assert place == CHECKOUT / "kernels/reattention_kernels/__init__.py"


def test_base_install_needs_no_extra(wheel, tmp_path):
    """Without any of the extras a model still runs with every method that needs none."""
    code = f"""
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {OPTIONAL!r}:
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from reattention_eval import attach
from reattention_eval.cli import app
from reattention_eval.methods import NativeMethod, build_method, list_methods
for name in list_methods():
    method = build_method(name)
    if getattr(method, "needs", ""):
        print(1)
        continue
    config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, vocab_size=50, max_position_embeddings=8192)
    if isinstance(method, NativeMethod):
        config = method.configure(config)
    model = LlamaForCausalLM(config)
    with attach(model.eval(), method) as session:
        print(session.generate(torch.tensor([[5, 6, 7]]), 2).shape[0])
"""
    assert run_outside(code, wheel, tmp_path).split() == ["1"] * len(list_methods())


def test_kernels_is_no_package_of_its_own():
    """A package of that name would shadow the one transformers looks for."""
    assert not (CHECKOUT / "kernels/__init__.py").exists()
