"""The weights of BRISQUE and NIQE in `pipelines/evaluate/naturalness`, from the packages that ship them.

    pip download --no-deps --no-binary :all: opencv-contrib-python-headless==5.0.0.93 basicsr==1.4.2
    python benchmarks/naturalness_weights.py opencv_contrib_python_headless-5.0.0.93.tar.gz basicsr-1.4.2.tar.gz

OpenCV's archive holds the model that its BRISQUE was trained to on the LIVE database, BasicSR's the parameters of the
authors of NIQE; both are Apache-2.0. What is read is numbers, nothing is unpickled or run.
"""

from __future__ import annotations

import argparse
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

WEIGHTS = Path(__file__).parents[1] / "pipelines" / "evaluate" / "naturalness"


def member(archive: Path, ending: str) -> bytes:
    """Read the one file of an archive whose path ends in ``ending``."""
    with tarfile.open(archive) as tar:
        names = [name for name in tar.getnames() if name.endswith(ending)]
        if len(names) != 1:
            raise SystemExit(f"{archive} holds {len(names)} files {ending}, expected one")
        stream = tar.extractfile(names[0])
        assert stream is not None
        return stream.read()


def opencv_yaml(data: bytes) -> Any:
    """Parse OpenCV's dialect of YAML, whose header and tags are not YAML's."""
    text = re.sub(r"^%YAML:1.0\n|!!opencv-matrix|(?<=[{,]) *", "", data.decode())
    return yaml.safe_load(re.sub(r"(?<=\w):(?=[\d.-])", ": ", text))


def main() -> None:
    """Write both files of weights."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("opencv", type=Path)
    parser.add_argument("basicsr", type=Path)
    args = parser.parse_args()
    svm = opencv_yaml(member(args.opencv, "quality/samples/brisque_model_live.yml"))["opencv_ml_svm"]
    limits = opencv_yaml(member(args.opencv, "quality/samples/brisque_range_live.yml"))["range"]
    (function,) = svm["decision_functions"]
    brisque = {
        "vectors": np.array(svm["support_vectors"], np.float32),
        "alpha": np.array(function["alpha"], np.float64),
        "rho": np.array([function["rho"]], np.float64),
        "gamma": np.array([svm["kernel"]["gamma"]], np.float64),
        "range": np.array(limits["data"], np.float32).reshape(limits["rows"], limits["cols"]),
    }
    stored = np.load(io.BytesIO(member(args.basicsr, "metrics/niqe_pris_params.npz")), allow_pickle=False)
    niqe = {"mean": stored["mu_pris_param"].ravel(), "covariance": np.ascontiguousarray(stored["cov_pris_param"])}
    save_file(brisque, WEIGHTS / "brisque.safetensors")
    save_file(niqe, WEIGHTS / "niqe.safetensors")


if __name__ == "__main__":
    main()
