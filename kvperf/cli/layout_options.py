"""The options that spread a step over GPUs: every command that analyses one takes the same."""

from typing import Annotated, Any, Literal

from kvperf.cli.option import option


def laid_out(
    tp: Annotated[int, option("--tp", "Tensor-parallel GPUs: slices of every layer. [default: 1]")] = 1,
    pp: Annotated[int, option("--pp", "Pipeline stages: layers one after the other. [default: 1]")] = 1,
    cp: Annotated[int, option("--cp", "Context-parallel GPUs: parts of each sequence. [default: 1]")] = 1,
    ep: Annotated[int, option("--ep", "Expert-parallel groups: whole experts each. [default: 1]")] = 1,
    attention_dp: Annotated[
        int, option("--attention-dp", "Groups with sequences of their own and all of attention's weights. [default: 1]")
    ] = 1,
    cluster: Annotated[
        str | None,
        option("--cluster", "GPU:GPUs of a node x nodes, instead of --gpu: h100-sxm:8x2 is two nodes of 8."),
    ] = None,
    network: Annotated[
        str | None,
        option(
            "--network",
            "Between nodes: infiniband-hdr, -ndr, -xdr, roce-200, -400, -800 or a file. [default: the GPU's usual one]",
        ),
    ] = None,
    micro_batches: Annotated[
        int | None, option("--micro-batches", "Parts of the batch in the pipeline. [default: one for each stage]")
    ] = None,
    context_scheme: Annotated[
        Literal["ring", "ulysses"],
        option("--context-scheme", "What context-parallel GPUs pass on: keys in a ring, or heads. [default: ring]"),
    ] = "ring",
    sequence_parallel: Annotated[
        bool,
        option(
            "--sequence-parallel/--no-sequence-parallel",
            "Norms on 1/tp of the tokens; reduce-scatter and all-gather. [default: no]",
        ),
    ] = False,
    redundant_experts: Annotated[
        int, option("--redundant-experts", "Copies of hot experts beside the model's. [default: 0]")
    ] = 0,
    expert_imbalance: Annotated[
        float, option("--expert-imbalance", "Load of the busiest GPU's experts over the average. [default: 1]")
    ] = 1.0,
    routed_nodes: Annotated[
        int | None, option("--routed-nodes", "Most nodes that one token's experts are on. [default: any]")
    ] = None,
    all_reduce: Annotated[
        Literal["stack", "nccl", "one-shot", "two-shot", "ring", "tree", "nvls"],
        option("--all-reduce", "Algorithm of all-reduces that is predicted. [default: as the stack chooses]"),
    ] = "stack",
    overlap: Annotated[
        bool,
        option("--overlap/--no-overlap", "Predict communication beside the kernels, not after them. [default: no]"),
    ] = False,
) -> dict[str, Any]:
    """The keywords of `api.analyze` that these options stand for."""
    return dict(locals())
