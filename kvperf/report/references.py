"""What the formulas of the report come from, by the key that sections cite."""

from __future__ import annotations

from kvperf.report.document import Cite

REFERENCES = {
    "roofline": "Williams, Waterman and Patterson 2009, Roofline, doi:10.1145/1498765.1498785",
    "flash": "Dao et al. 2022, FlashAttention, arXiv:2205.14135",
    "online-softmax": "Milakov and Gimelshein 2018, Online normalizer calculation for softmax, arXiv:1805.02867",
    "split-kv": "Dao et al. 2023, Flash-Decoding; splits by the rule of FlashAttention-3, hopper/heuristics.h",
    "gqa": "Ainslie et al. 2023, GQA, arXiv:2305.13245",
    "mla": "DeepSeek-AI 2024, DeepSeek-V2, arXiv:2405.04434",
    "little": "Little 1961, L = λW, doi:10.1287/opre.9.3.383: bytes in flight = bandwidth × latency",
    "megatron": "Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053",
    "gpipe": "Huang et al. 2019, GPipe, arXiv:1811.06965",
    "ring": "Liu et al. 2023, Ring Attention, arXiv:2310.01889",
    "gshard": "Lepikhin et al. 2020, GShard, arXiv:2006.16668",
    "nccl-tests": "NVIDIA/nccl-tests: doc/PERFORMANCE.md, bytes on the wire of each collective",
    "chunked": "Agrawal et al. 2024, Sarathi-Serve, arXiv:2403.02310",
    "paging": "Kwon et al. 2023, PagedAttention, arXiv:2309.06180",
    "conversion": "deepseek-ai/FlashMLA: docs/20250929-hopper-fp8-sparse-deep-dive.md",
    "formulas": "kvperf analyze --explain STAGE prints each stage's formula and its source",
}


def cite(key: str) -> Cite:
    return Cite(key, REFERENCES[key])
