"""The GPU engine: reference.py's functions as Triton kernels.

Up to 128 states, messages and transitions stay in registers and a step is a scaled product (_triton_scaled.py, where
the argument for its exactness stands); more states, and transitions that vary in time, take log-sum-exps over blocks
(_triton_blocked.py); paths are in _triton_paths.py.  Time is a loop inside the kernel, and a program walks only over
its own sequences' steps.  Messages have the precision of the potentials; log Z and moves are added in float64.

On CPU tensors the kernels run under Triton's interpreter, for tests: TRITON_INTERPRET=1, set before triton is imported.
"""

import importlib.metadata
import os
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae.inference.chain import Chain, Filtered, Path, Posterior
from dbn_vae.inference.reference import k_best as k_best  # torch alone, which runs there as well

try:
    version = tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
except importlib.metadata.PackageNotFoundError:
    version = (0, 0)
interpreted = os.environ.get("TRITON_INTERPRET") == "1"
usable = version >= (3, 4) and (
    torch.cuda.is_available() or interpreted
)  # 3.2 fails to compile these kernels

IN_REGISTERS = 128  # states
FILLS = 2048  # warps that keep a large GPU busy: 4 on each of the 4 schedulers of 132 multiprocessors
BLOCK = 64  # states that a block of a product has
FLUSH = 256  # steps of expected moves in the potentials' precision, before they go into float64
DRAWS = 8  # sampled paths a program walks at once
# See _triton_scaled.py: where a sum may have lost something.
LIMITS = {
    torch.float32: {"LOW": 2.0**-16, "FAINT": 2.0**-76, "SAFE": -60.0, "RARE": 2.0**-60, "FACTORS": 32},
    torch.float64: {"LOW": 2.0**-100, "FAINT": 2.0**-800, "SAFE": -500.0, "RARE": 2.0**-500, "FACTORS": 8},
}
Options = dict[str, int | bool]
BLOCKED: Options = {"num_warps": 4, "enable_fp_fusion": True}


class Tables(NamedTuple):
    """Contiguous potentials."""

    initial: Tensor  # (B, K)
    transition: Tensor  # (K, K), (B, K, K) or (B, T-1, K, K)
    emission: Tensor  # (B, T, K)
    lengths: Tensor  # (B,) int64

    @property
    def shape(self) -> tuple[int, int, int]:
        B, T, K = self.emission.shape
        return B, T, K

    @property
    def strides(self) -> tuple[int, int]:
        """Of log_transition: from a sequence to the next, from a step to the next."""
        _, T, K = self.shape
        return [(0, 0), (K * K, 0), ((T - 1) * K * K, K * K)][self.transition.dim() - 2]

    @property
    def scaled(self) -> bool:
        """One transition matrix a sequence, which fits into registers."""
        return self.transition.dim() < 4 and self.shape[2] <= IN_REGISTERS

    def mask(self) -> Tensor:
        return torch.arange(self.shape[1], device=self.lengths.device) < self.lengths[:, None]


def log_partition(chain: Chain) -> Tensor:
    tables = prepare(chain)
    log_z = tables.initial.new_empty(tables.shape[0])
    if tables.scaled:
        scaled_filter(tables, log_z, None, None, linear=False)
    else:
        blocked_filter(tables, log_z, None)
    return log_z


def filter(chain: Chain) -> Filtered:
    tables = prepare(chain)
    B, T, K = tables.shape
    new = tables.initial.new_empty
    log_z, c = new(B), new(B, T)
    if tables.scaled:
        probs = new(B, T, K)
        scaled_filter(tables, log_z, probs, c, linear=True)
    else:
        probs = blocked_filter(tables, log_z, c).exp2_()
        probs.masked_fill_(~tables.mask()[..., None], 0.0)
        c.masked_fill_(~tables.mask(), 0.0)
    return Filtered(log_z, probs, c)


def smooth(chain: Chain) -> Posterior:
    tables = prepare(chain)
    B, T, K = tables.shape
    dtype = tables.initial.dtype
    log_z = tables.initial.new_empty(B)
    if not tables.scaled:
        return blocked_smooth(tables, log_z)
    from dbn_vae.inference._triton_scaled import smooth_kernel

    gamma = tables.initial.new_empty(B, T, K)
    xi = tables.initial.new_zeros(B, K, K, dtype=torch.float64)
    programs, options, order = tiles(tables)
    with torch.cuda.device_of(gamma):
        smooth_kernel[(programs,)](
            *tables, order, tables.transition.mT.contiguous(), log_z, gamma, xi, B, T, K, tables.strides[0],
            FLUSH=FLUSH, **LIMITS[dtype], **options,
        )  # fmt: skip
    return Posterior(log_z, gamma, xi.mT.to(dtype))


def viterbi(chain: Chain) -> Path:
    from dbn_vae.inference._triton_paths import blocked_viterbi_kernel, viterbi_kernel

    tables = prepare(chain)
    B, T, K = tables.shape
    new = tables.initial.new_empty
    score, states = new(B), new(B, T, dtype=torch.int64)
    came = new(B, T, K, dtype=smallest_index(K))
    with torch.cuda.device_of(states):
        if K <= IN_REGISTERS:
            programs, options, order = tiles(tables)
            viterbi_kernel[(programs,)](
                *tables, order, score, states, came, B, T, K, tables.strides[0],
                VARIES=tables.transition.dim() == 4, **options,
            )  # fmt: skip
        else:
            blocked_viterbi_kernel[(B,)](
                *tables, score, states, came, new(B, 2, K), T, K, *tables.strides, S=block(K), **BLOCKED
            )
    return Path(states, score)


def sample(chain: Chain, uniform: Tensor) -> Tensor:
    from dbn_vae.inference._triton_paths import sample_kernel

    tables = prepare(chain)
    B, T, K = tables.shape
    N = uniform.shape[0]
    uniform = uniform.to(torch.float64).contiguous()
    states = torch.empty(uniform.shape, dtype=torch.int64, device=uniform.device)
    log_z = tables.initial.new_empty(B)
    if tables.scaled:
        messages = tables.initial.new_empty(B, T, K)
        scaled_filter(tables, log_z, messages, None, linear=False)
    else:
        messages = blocked_filter(tables, log_z, None)
    with torch.cuda.device_of(states):
        sample_kernel[(B, -(-N // DRAWS))](
            tables.transition, tables.lengths, messages, uniform, states, N, B, T, K, *tables.strides,
            D=DRAWS, S=power_of_two(K), **BLOCKED,
        )  # fmt: skip
    return states


def scaled_filter(
    tables: Tables, log_z: Tensor, messages: Tensor | None, normalizers: Tensor | None, *, linear: bool
) -> None:
    """Fills what is given; messages with probabilities, or with their logarithms."""
    from dbn_vae.inference._triton_scaled import filter_kernel

    programs, options, order = tiles(tables)
    with torch.cuda.device_of(log_z):
        filter_kernel[(programs,)](
            *tables, order, log_z, messages, normalizers, *tables.shape, tables.strides[0],
            LINEAR=linear, **LIMITS[log_z.dtype], **options,
        )  # fmt: skip


def blocked_filter(tables: Tables, log_z: Tensor, normalizers: Tensor | None) -> Tensor:
    """log2 p(s_t | x_{1:t}): (B, T, K); anything on padding."""
    from dbn_vae.inference._triton_blocked import forward_kernel

    B, T, K = tables.shape
    messages = torch.empty_like(tables.emission)
    with torch.cuda.device_of(log_z):
        forward_kernel[(B,)](
            *tables, messages, log_z, normalizers, T, K, *tables.strides, S=block(K), **BLOCKED
        )
    return messages


def blocked_smooth(tables: Tables, log_z: Tensor) -> Posterior:
    from dbn_vae.inference._triton_blocked import backward_kernel, pairs_kernel

    B, T, K = tables.shape
    initial, transition, emission, lengths = tables
    messages = blocked_filter(tables, log_z, None)
    gamma, q = torch.zeros_like(emission), torch.empty_like(emission)
    summed = transition.dim() < 4
    xi = initial.new_empty((B, K, K) if summed else (B, T - 1, K, K))
    S = block(K)
    with torch.cuda.device_of(log_z):
        backward_kernel[(B,)](
            transition, emission, lengths, messages, gamma, q, T, K, *tables.strides, S=S, **BLOCKED
        )
        programs = B if summed else B * (T - 1)
        if programs > 0:
            pairs_kernel[(programs, (-(-K // S)) ** 2)](
                transition, lengths, messages, q, xi, T, K, *tables.strides,
                SUMMED=summed, S=S, FLUSH=FLUSH, **BLOCKED,
            )  # fmt: skip
    return Posterior(log_z, gamma, xi)


def prepare(chain: Chain) -> Tables:
    """Raises RuntimeError where no kernel can read the tensors."""
    initial, transition, emission, lengths = chain
    assert lengths is not None  # a canonical chain
    if not initial.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "the CUDA kernels read CUDA tensors; move the potentials there, or, to test on a CPU, set "
            "TRITON_INTERPRET=1 before triton is imported"
        )
    lengths = lengths.to(initial.device, torch.int64)
    return Tables(initial.contiguous(), transition.contiguous(), emission.contiguous(), lengths.contiguous())


def tiles(tables: Tables) -> tuple[int, Options, Tensor | None]:
    """How many programs, their sizes, and the order of the sequences, so that those of a tile end together."""
    B, _, K = tables.shape
    S, R = power_of_two(K), 1
    while R * S < 32 and B >= 2 * R * FILLS:  # several sequences share a warp only if warps abound
        R *= 2
    options: Options = {"R": R, "S": S, "num_warps": max(1, S * S // 1024), "enable_fp_fusion": True}
    if R * S * S <= 512 and tables.initial.dtype == torch.float32:
        options["maxnreg"] = 128  # more would be spent on rare branches, and half the warps would not fit
    return -(-B // R), options, tables.lengths.argsort() if R > 1 else None


def power_of_two(K: int) -> int:
    return 1 << (K - 1).bit_length()


def block(K: int) -> int:
    return min(BLOCK, power_of_two(K))


def smallest_index(K: int) -> torch.dtype:
    return torch.uint8 if K <= 256 else torch.int16 if K <= 2**15 else torch.int32
