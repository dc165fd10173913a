"""Build steps that pyproject.toml cannot state: the Cython extensions and the message-schema descriptor set.

Generated C goes to the build folder, never beside its source. Environment:
    KUDU_STORAGE_DEBUG=1              bounds checks and assertions in the native code
    KUDU_STORAGE_SANITIZE=address,undefined   (or thread) instrument the native code
"""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from Cython.Build import cythonize
from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
DEBUG = os.environ.get("KUDU_STORAGE_DEBUG") == "1"
SANITIZE = os.environ.get("KUDU_STORAGE_SANITIZE", "")


def extensions() -> list[Extension]:
    compile_args = ["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
    compile_args += ["-fvisibility=hidden", "-Wno-unreachable-code"]
    link_args: list[str] = []
    if SANITIZE:
        compile_args += ["-g", "-O1", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
        if "undefined" in SANITIZE:
            compile_args += ["-fno-sanitize-recover=undefined"]
        link_args += [f"-fsanitize={SANITIZE}"]
    return [
        Extension(
            ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [str(source.relative_to(ROOT))],
            include_dirs=["kudu_storage/_native"],
            depends=[str(p.relative_to(ROOT)) for p in sorted(source.parent.glob("*.p[yx]d"))
                     + sorted(source.parent.glob("*.h"))],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            define_macros=[("KUDU_STORAGE_DEBUG", "1" if DEBUG else "0")],
        )
        for source in sorted((ROOT / "kudu_storage").rglob("*.pyx"))
    ]


def directives() -> dict[str, object]:
    return {
        "language_level": 3,
        "boundscheck": DEBUG,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": DEBUG,
        "embedsignature": True,
        "freethreading_compatible": False,
    }


class BuildDescriptors(Command):
    """Compile kudu_storage/protos/**/*.proto into one FileDescriptorSet (no generated code)."""

    description = "compile the message schemas into one descriptor set"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = [("inplace", "i", "write beside the sources")]
    boolean_options: ClassVar[list[str]] = ["inplace"]
    editable_mode = False
    build_lib: str | None = None
    inplace = False

    def initialize_options(self) -> None:
        self.build_lib = None
        self.inplace = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def target(self) -> Path:
        base = ROOT if self.editable_mode or self.inplace else Path(self.build_lib or "build/lib")
        return base / "kudu_storage" / "protos" / "descriptors.binpb"

    def run(self) -> None:
        source_root = ROOT / "kudu_storage" / "protos"
        sources = sorted(str(p.relative_to(source_root)) for p in source_root.rglob("*.proto"))
        self.target().parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"-I{source_root}", "--include_imports",
             f"--descriptor_set_out={self.target()}", *sources],
            check=True,
        )

    def get_outputs(self) -> list[str]:
        return [str(self.target())]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return [str(p.relative_to(ROOT)) for p in (ROOT / "kudu_storage" / "protos").rglob("*.proto")]


class BuildExt(build_ext):
    """Compile as many modules at a time as there are processors."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()


class BuildPy(build_py):
    """Leave Cython sources and schema texts out of the wheel: only what runs is installed."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [m for m in super().find_package_modules(package, package_dir) if not m[2].endswith((".pyx", ".c"))]


build.sub_commands = [*build.sub_commands, ("build_descriptors", None)]

setup(
    ext_modules=cythonize(
        extensions(), build_dir=os.environ.get("KUDU_STORAGE_CYTHON_DIR", "build/cython"),
        compiler_directives=directives(), nthreads=0,
    ),
    cmdclass={"build_descriptors": BuildDescriptors, "build_ext": BuildExt, "build_py": BuildPy},
)
