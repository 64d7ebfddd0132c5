"""One document on a GPU, a model and a workload: sections of computed figures, which kvperf/render/report draws."""
