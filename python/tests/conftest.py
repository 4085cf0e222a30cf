import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests are about the CPU device
os.environ.setdefault("ARBITER_LOG", "warn")


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory):
    """Kernels are compiled once for all tests, and never into the user's cache."""
    os.environ.setdefault("ARBITER_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
