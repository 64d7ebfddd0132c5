"""From logits to token ids."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.work import Work
from kvperf.workload import Sampling, Workload

# FLOP a logit, passes that read the logits, passes that sort keys with their indices, kernels.
# top-k: a radix select and the draw. top-p: softmax, a radix sort of 32-bit keys by 8-bit digits
# (four passes that read and write 8 bytes), a scan and the draw.
PLANS: dict[Sampling, tuple[int, int, int, int]] = {
    "argmax": (1, 1, 0, 1),
    "top-k": (6, 2, 0, 2),
    "top-p": (6, 2, 4, 6),
    "cpu": (0, 1, 0, 1),
}


def sampling(shard: Shard, workload: Workload) -> Work:
    """Choose the next token of each row; on the CPU, all logits go to the host first.

    vector_flops           = f*T_out*V
    exponentials           = e*T_out*V
    activation_read_bytes  = l*passes*T_out*V + 2*l*sorts*T_out*V
    activation_write_bytes = 2*l*sorts*T_out*V + 8*T_out*device
    compulsory_bytes       = 8*T_out*device
    host_bytes             = h*T_out*V*(1 - device)
    kernels                = launches

    f       FLOP a logit
    e       1 if a softmax is taken, else 0
    l       bytes of a logit (fp32; 0 in a megakernel)
    passes  passes that read the logits
    sorts   radix passes over 8-byte pairs of key and index
    device  1 if the GPU chooses, 0 if the CPU does
    h       bytes of a logit on its way to the host (the activations' dtype)

    Source: Holtzman et al. 2019 (top-p, arXiv:1904.09751), Fan et al. 2018 (top-k, arXiv:1805.04833); one
    int64 id a row. Passes: radix select and least-significant-digit radix sort on 8-bit digits.
    """
    T_out, V = workload.logit_rows, shard.vocab_size
    f, passes, sorts, kernels = PLANS[workload.sampling]
    e = int(workload.sampling in ("top-k", "top-p"))
    device = int(workload.sampling != "cpu")
    l = 0 if workload.fusion == "megakernel" else 4  # noqa: E741
    h = shard.activation.element_bytes
    launches = workload.launches(serving=kernels)
    return Work(
        vector_flops=f * T_out * V,
        exponentials=e * T_out * V,
        activation_read_bytes=l * passes * T_out * V + 2 * l * sorts * T_out * V,
        activation_write_bytes=2 * l * sorts * T_out * V + 8 * T_out * device,
        compulsory_bytes=8 * T_out * device,
        host_bytes=0 if device else h * T_out * V,
        kernels=launches,
        widest_kernel_bytes=l * T_out * V * (4 if sorts else 1) + 8 * T_out,
    )
