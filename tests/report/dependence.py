"""Which figures of the report depend on which input: patterns of names, and names among them that do not."""

from __future__ import annotations

BOUNDS = (
    "step.bound_s",
    "step.tokens_per_s",
    "step.hbm_s",
    "step.serial_s",
    "stage.*.bound_s",
    "tuning.*.bound_s",
    "tuning.*.tokens_per_s",
    "launch.average_s",
    "chunk.saved_s",
    "chunk.added_s",
    "chunk.saved_at_most_s",
)

# What changes with any kernel's time; a verdict on it only where a threshold is crossed, which the constants decide.
PREDICTED = (
    "predicted.*.s",
    "predicted.*.low_s",
    "predicted.*.high_s",
    "predicted.*.share",
    "predicted.over_bound",
    "predicted.tokens_per_s",
    "chunk.predicted.*",
    "launch.predicted.*",
    "link.*.predicted_s",
    "link.*.predicted_speed_up",
    "link.*.collectives_share",
    "gpu.h100-sxm.kernels_s",
    "tuning.*.predicted.*",
)
VERDICTS = ("tuning.*.predicted.pays", "predicted.longest", "launch.predicted.saved_s")
NOT_PREDICTED = (
    "predicted.host.s",
    "link.tp1.predicted_speed_up",
    "link.tp1.collectives_share",
    "tuning.now.predicted.gain",
    "tuning.now.predicted.saved_s",
)


def _times(*stages: str) -> tuple[str, ...]:
    """The predicted times of stages, their shares apart."""
    return tuple(f"predicted.{stage}.{end}" for stage in stages for end in ("s", "low_s", "high_s"))


SMALL = ("embedding", "attention_norm", "mlp_norm", "final_norm", "sampling")

# By input: patterns of the names that change, and of those among them that do not.
BANDWIDTH = (
    *BOUNDS,
    *PREDICTED,
    "hierarchy.HBM3.bandwidth",
    "hierarchy.l2_over_memory",
    "hierarchy.memory.measured_share",
    "attention.cold_s",
    "attention.hbm_s",
    "attention.ridge",
    "attention.memory_over_matrix",
    "kernel.*.hbm_s",
    "kernel.async_ring.design_s",
    "kernel.bulk_copy.design_s",
    "kernel.tensor_cores.design_s",
    "flight.needed.*",
    "padding.hbm_s",
    "peak.*.ridge",
    "scores.*.saved_s",
    "launch.fusion_saved_s",
    "tp?.bound_s",
    "link.*.serial_s",
    "link.*.serial_speed_up",
    "tuning.*.saved_s",
    "tuning.*.saved_if_converted_s",
    "gemv.share",
    "gemv.weights_at_peak_s",
    "gpu.h100-sxm.bandwidth",
    "gpu.h100-sxm.bound_s",
    "gpu.*.speed_up",
)
NOT_BANDWIDTH = (
    *NOT_PREDICTED,
    "link.tp1.serial_speed_up",
    "tuning.kv_int?.saved_if_converted_s",
    "stage.rope.bound_s",
    "tuning.now.saved_s",
    "gpu.h100-sxm.speed_up",
)

# Half the SMs, and with them half of every peak: the step stays bound by memory.
SMS = (
    *PREDICTED,
    "hierarchy.sms",
    "hierarchy.registers.total",
    "hierarchy.shared_memory.bandwidth",
    "peak.*.stated",
    "peak.*.derived",
    "peak.*.ridge",
    "flight.needed.*",
    "beside.cuda_core_s",
    "beside.sfu_s",
    "step.tensor_s",
    "step.achievable_s",
    "attention.memory_over_matrix",
    "attention.ridge",
    "attention.tensor_s",
    "padding.products_s",
    "padding.tensor_s",
    "chunk.alone_s",
    "chunk.added_s",
    "chunk.saved_s",
    "tuning.kv.saved_if_converted_s",
    "tuning.weights.saved_if_converted_s",
    "kernel.*.arithmetic_s",
    # Kernels that split a sequence make fewer pieces: their waves stay, those of others are twice as many.
    "kernel.cached_attention.waves",
    "kernel.flash.waves",
    "idea.split_kv.waves.before",
    "idea.split_kv.blocks.after",
    "idea.async_ring.bytes_requested.*",
    "idea.tensor_cores.arithmetic.*",
    "kernel.split_kv.design_s",
    *(
        f"kernel.{name}.{figure}"
        for name in ("async_ring", "bulk_copy", "split_kv", "tensor_cores")
        for figure in ("blocks", "splits", "requested", "l2_s")
    ),
    "kernel.async_ring.grid",
    "kernel.async_ring.split_tokens",
)

# Products: whether waves or bytes bind them is decided by the constants.
UNDECIDED = {"SM count": _times("qkv_projection", "output_projection", "mlp", "lm_head")}
# Small kernels are priced by their bytes.
NOT_SMS = (*NOT_PREDICTED, *_times(*SMALL, "rope"))

# Keys of a smaller format, or of a rank, fit into the one L2 and not into the other: the start is then charged whole.
L2_CAPACITY = (
    "hierarchy.L2_cache.size",
    "attention.layer_over_l2",
    "attention.warm_s",
    "link.tp?.predicted_s",
    "link.tp?.predicted_speed_up",
    "link.tp?.collectives_share",
    "tuning.kv*.predicted.*",
)
NOT_L2_CAPACITY = ("link.tp1.predicted_s", "link.tp1.predicted_speed_up", "link.tp1.collectives_share")

KV_HEADS = (
    *BOUNDS,
    *PREDICTED,
    "gpu.*.kernels_s",
    "tp?.speed_up",
    "attention.kv_heads",
    "attention.kv_read",
    "attention.bytes",
    "attention.intensity",
    "attention.hbm_s",
    "attention.cold_s",
    "attention.warm_s",
    "attention.memory_over_matrix",
    "attention.layer_bytes",
    "attention.layer_over_l2",
    "bottleneck.share",
    "beside.cuda_core_s",
    "beside.l2_s",
    "chunk.alone_s",
    "stage.*.share",
    "stage.attention.*_bytes",
    "stage.attention.intensity",
    "stage.kv_update.*_bytes",
    "stage.qkv_projection.*_bytes",
    "stage.qkv_projection.intensity",
    "stage.qkv_projection.flop",
    "stage.rope.plan_bytes",
    "stage.rope.flop",
    "stage.step.*_bytes",
    "stage.step.flop",
    "stage.step.intensity",
    "step.tensor_s",
    "step.achievable_s",
    "step.*_share",
    "memory.kv",
    "memory.kv_per_token",
    "memory.max_*",
    "memory.needed",
    "memory.weights",
    "padding.group",
    "padding.hbm_s",
    "padding.tensor_s",
    "padding.*.rows",
    "padding.*.useful",
    "scores.decode.*",
    "scores.prefill.*",
    "prefill.three_pass",
    "prefill.flash",
    "tp.kv_heads",
    "tp?.bound_s",
    "tp?.kv_per_token",
    "tp?.max_batch",
    "tp?.weights",
    "link.*.serial_s",
    "link.*_speed_up",
    "context.ring",
    "tp8.kv_copies",
    "gemv.weights_s",
    "gemv.weights_at_peak_s",
    "gpu.*.bound_s",
    "tuning.*.gain",
    "tuning.*.max_batch",
    "tuning.*.saved_s",
    "tuning.*.saved_if_converted_s",
    "tuning.*.stops_at",
    "tuning.kv.left",
    "tuning.kv.pays_from",
    "tuning.kv_int?.pays_from",
    "tuning.kv_int?.left",
    # Kernels that share a read of K and V; the others read them once for each query head.
    "kernel.*.compulsory",
    "kernel.*.hbm_s",
    "kernel.cached_attention.reread",
    "kernel.flash.reread",
    "kernel.split_kv.reread",
    "kernel.*.requested",
    "kernel.*.l2_s",
    "kernel.*.splits",
    "kernel.*.design_s",
    "kernel.async_ring.blocks",
    "kernel.async_ring.blocks_per_sm",
    "kernel.async_ring.grid",
    "kernel.async_ring.occupancy",
    "kernel.async_ring.registers",
    "kernel.async_ring.shared",
    "kernel.async_ring.shared.q",
    "kernel.async_ring.shared_share",
    "kernel.async_ring.split_tokens",
    "flight.async_ring.held",
    "idea.async_ring.bytes_on_their_way_to_an_SM.after",
    "idea.async_ring.bytes_requested.after",
    "idea.async_ring.times_each_is_read.before",
    "idea.tensor_cores.arithmetic.after",
)
PER_QUERY_HEAD = tuple(
    f"kernel.{name}.{figure}"
    for name in ("cached_attention", "flash", "split_kv")
    for figure in ("requested", "l2_s", "splits", "design_s")
)
NOT_KV_HEADS = (
    *NOT_PREDICTED,
    *_times(*SMALL, "lm_head", "mlp", "output_projection"),
    "gpu.mi*.kernels_s",
    "tp1.speed_up",
    "link.tp1.serial_speed_up",
    "link.tp8.predicted_s",
    "link.tp8.collectives_share",
    "tuning.kv_int?.saved_if_converted_s",
    *PER_QUERY_HEAD,
    *(f"stage.{name}.bound_s" for name in ("embedding", "attention_norm", "rope", "output_projection", "mlp_norm")),
    *(f"stage.{name}.bound_s" for name in ("mlp", "final_norm", "lm_head", "sampling")),
    "stage.rope.share",
    "scores.*.saved_s",
    "scores.batch",
    "scores.context",
    "link.tp8.serial_s",
    "tp8.bound_s",  # eight ranks hold one KV head each, of eight or of four
    "tp8.kv_per_token",
    "tp8.max_batch",
    "tp8.weights",
    "tuning.now.gain",
    "tuning.now.saved_s",
)
