"""Which library multiplies for MLX, seen from fresh processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_stt.model.blas import INSTALL_HINT

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux' MLX ships a slow BLAS")

MULTIPLY = """
import numpy as np
{first}
import mlx.core as mx
random = np.random.default_rng(3)
a, b = (random.normal(size=(300, 300)).astype(np.float32) for _ in range(2))
product = np.array(mx.array(a) @ mx.array(b))
from parakeet_stt.model import blas
print("difference", float(np.abs(product - a @ b).max()))
print("said", blas.prepare())
"""


def multiply(first: str = "import parakeet_stt", **environment: str) -> tuple[str, str]:
    """Multiply in a fresh process; gives what it printed and the library that was bound."""
    done = subprocess.run(
        [sys.executable, "-c", MULTIPLY.format(first=first)],
        env={**os.environ, "LD_DEBUG": "bindings", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    bound = re.findall(r"binding file \S*libmlx\S* \[0\] to (\S+) .*`cblas_sgemm'", done.stderr)
    assert bound, "the dynamic loader bound no cblas_sgemm for MLX"
    return done.stdout, bound[-1]


def difference(out: str) -> float:
    return float(re.search(r"difference (\S+)", out)[1])  # type: ignore[index]


@linux
@pytest.mark.needs("OpenBLAS")
@pytest.mark.parametrize(
    "first",
    [
        "import parakeet_stt",
        "from parakeet_stt import load_model",
        "import parakeet_stt.cli.main",
        "import sys; sys.path.insert(0, 'examples'); import bot_v2",
    ],
)
def test_the_fast_library_that_is_installed_serves_mlx_from_every_entry(first: str) -> None:
    out, bound = multiply(first)
    assert difference(out) < 1e-3
    assert re.search("openblas|blis|mkl", Path(bound).name), bound


@linux
def test_it_can_be_turned_off_and_results_agree() -> None:
    out, bound = multiply(PARAKEET_BLAS="off")
    assert "mlx" in bound
    assert difference(out) < 1e-3
    assert "PARAKEET_BLAS=off" in out


@linux
def test_a_library_can_be_named() -> None:
    """The one that the mlx wheel ships is always there: named, it is loaded like any other."""
    _, shipped = multiply(PARAKEET_BLAS="off")
    out, bound = multiply(PARAKEET_BLAS=shipped)
    assert Path(bound).samefile(shipped)
    assert f"said {Path(shipped).resolve()}" in out


@linux
def test_mlx_imported_first_is_said() -> None:
    out, bound = multiply("import mlx.core; import parakeet_stt")
    assert "mlx" in bound
    assert "import parakeet_stt before mlx" in out


@linux
def test_a_machine_without_one_works_and_says_what_to_install() -> None:
    # As on a machine where no candidate can be found.
    first = "from parakeet_stt.model import blas\n".join(
        [
            "import sys, types, ctypes\n"
            "real = ctypes.CDLL\n"
            "def none(name, *a, **k):\n"
            "    if name and 'blas' in str(name) or name and 'mkl' in str(name)"
            " or name and 'blis' in str(name):\n"
            "        raise OSError('not found')\n"
            "    return real(name, *a, **k)\n"
            "ctypes.CDLL = none\n"
            "import parakeet_stt\n",
            "",
        ]
    )
    out, bound = multiply(first)
    assert "mlx" in bound
    assert INSTALL_HINT in out
    assert difference(out) < 1e-3


@linux
@pytest.mark.parametrize(
    ("library", "message"), [("/nowhere/libx.so", "cannot be loaded"), ("libm.so.6", "cblas_sgemm")]
)
def test_a_library_that_cannot_serve_is_one_warning_on_import(library: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import parakeet_stt"],
        env={**os.environ, "PARAKEET_BLAS": library},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    (warning,) = done.stderr.splitlines()
    assert f"PARAKEET_BLAS={library}" in warning
    assert message in warning
    assert "PARAKEET_BLAS=auto is used" in warning


THREADS = """
import json, os, parakeet_stt
import numpy  # It comes with an OpenBLAS of its own.
from threadpoolctl import threadpool_info
from parakeet_stt.model import blas
def threads():
    # scipy comes with parakeet-mlx and has one too, which nothing here uses.
    return {
        "mlx" if os.path.realpath(i["filepath"]) == blas.prepare().library else "numpy":
        i["num_threads"] for i in threadpool_info() if "scipy.libs" not in i["filepath"]
    }
before = threads()
parakeet_stt.load_model("tiny", backend="mlx")
print(json.dumps([before, threads()]))
"""


@linux
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one thread in any case")
@pytest.mark.parametrize(
    "owner", ["numpy", pytest.param("mlx", marks=pytest.mark.needs("OpenBLAS"))]
)
def test_a_small_model_does_not_wake_threads_for_small_products(owner: str) -> None:
    free = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    for environment, wanted in ((free, 1), ({**free, "OPENBLAS_NUM_THREADS": "2"}, 2)):
        done = subprocess.run(
            [sys.executable, "-c", THREADS],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        before, after = json.loads(done.stdout)
        assert before[owner] > 1
        assert after[owner] == wanted
