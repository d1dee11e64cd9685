"""What conf/model/nas_bench_201.yaml and its likes may hold. The values' meaning is said there."""

from quantlab.config.fields import Layers, Width
from quantlab.config.models.searchable import Searchable


class NasBench201(Searchable, target="quantlab.models.nas_bench_201.build_nas_bench_201"):
    width: Width
    cells: Layers

    @property
    def example(self) -> str:
        return "2-2-2-2-2-2"
