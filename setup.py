"""Packaging: ranges that are meant to work; `constraints.txt` holds the versions that were tested together."""

import pathlib
import re

import setuptools

INIT = pathlib.Path(__file__).parent.joinpath("t5x_mini", "__init__.py").read_text(encoding="utf-8")

# There are wheels for this platform alone.
LIBTPU = "libtpu{}; platform_system == 'Linux' and platform_machine == 'x86_64'"

# What the documentation's site is built with; ruff lays out the signatures.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2", "ruff>=0.12"]

setuptools.setup(
    name="t5x-mini",
    version=re.search(r'__version__ = "(.+)"', INIT).group(1),
    description="T5-style transformers in JAX: encoder-decoder, prefix LM and causal LM, from laptop to TPU pod",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The two top-level folders travel inside the package, where `resources.py` looks first.
    packages=[*setuptools.find_packages(include=["t5x_mini", "t5x_mini.*"]), "t5x_mini.gin", "t5x_mini.data"],
    package_dir={"t5x_mini.gin": "gin", "t5x_mini.data": "data"},
    package_data={
        "t5x_mini.gin": ["**/*.gin"],
        "t5x_mini.data": ["**/*"],
        "t5x_mini.report": ["web/*", "uplot/*"],
    },
    install_requires=[
        "etils>=1.12",
        "flax>=0.12,<0.13",
        "gin-config>=0.5,<0.6",
        # tensorflow-datasets imports it without saying so.
        "importlib_resources>=6",
        "jax>=0.10,<0.11",
        "jaxtyping>=0.3,<0.4",
        "matplotlib>=3.9,<4",
        "ml_dtypes>=0.5",
        "numpy>=2.1,<3",
        "optax>=0.2.5,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "packaging>=24",
        "protobuf>=5",
        "pyarrow>=18",
        "rouge-score>=0.1.2,<0.2",
        "sacrebleu>=2.4,<3",
        "scikit-learn>=1.5,<2",
        "scipy>=1.14,<2",
        "sentencepiece>=0.2.3,<0.3",
        "seqio>=0.0.20,<0.1",
        "tensorboardX>=2.6,<3",
        "tensorflow>=2.20,<2.22",
        "tensorflow-datasets>=4.9.9,<5",
        "tensorstore>=0.1.70",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        # The compiler for TPUs, for `t5x-mini plan` where there is none: that of jax[tpu], as jaxlib can't read what a
        # newer one writes for v5p and v6e.
        "plan": [LIBTPU.format("==0.0.42.*")],
        "cuda": ["jax[cuda13]"],
        "hf": ["datasets>=3", "huggingface_hub>=1"],
        "wandb": ["wandb>=0.19"],
        "docs": DOCS,
        # torch and transformers are what the models are compared with. setuptools and wheel: a test builds the wheel
        # without reaching for the network.
        "dev": [
            *DOCS,
            "huggingface_hub>=1",
            "hypothesis>=6",
            "ipykernel>=6.29",  # it, nbclient and nbformat run the notebook in docs/
            LIBTPU.format("==0.0.52"),  # figures in the tests are this one's
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3",
            "PyYAML>=6",
            "safetensors>=0.5",
            "setuptools>=65",
            "torch>=2.9,<3",
            "transformers>=5,<6",
            "typeguard>=4",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["t5x-mini = t5x_mini.__main__:run"]},
)
