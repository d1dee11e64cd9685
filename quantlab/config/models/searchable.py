"""Models that are a supernet, or with `model.subnet` one network of its space."""

from typing import TYPE_CHECKING

from quantlab.config.fields import Name, OrNull
from quantlab.config.models.base import Model
from quantlab.config.sections import by_option

if TYPE_CHECKING:
    from quantlab.config.methods.base import Method


class BySubnet:
    """A fact of a searchable model: of the supernet, or with a subnet chosen of the classifier that it is."""

    def __init__(self, supernet, classifier):
        self.supernet, self.classifier = supernet, classifier

    def __get__(self, section: "Searchable | None", owner: type):
        return self.supernet if section is None or section.subnet is None else self.classifier


class Searchable(Model):
    kind = BySubnet("supernet", "classifier")
    task_kinds = BySubnet(("classification",), ("classification", "generation"))
    not_opened = BySubnet(
        "whose weights rank subnets and are no subnet's own; train one alone, as that run's report.md says, and give"
        " its directory",
        None,
    )
    subnet: OrNull[Name]

    @property
    def example(self) -> str:
        """An encoding to show: the middle one of the legal operations everywhere."""
        raise NotImplementedError  # every space's own

    def misfit(self, method: "Method") -> str | None:
        """A supernet where a single network is wanted, and the other way round."""
        kinds = method.model_kinds or ("classifier",)
        if self.kind == "supernet" and "classifier" in kinds and "supernet" not in kinds:
            methods = by_option("method").items()
            searching = next(name for name, one in methods if self.kind in getattr(one, "model_kinds", ()))
            return (
                f"model.subnet: got null, the supernet model={self.name}, but method={method.name} takes a single"
                f" network, allowed: the encoding of one; type model.subnet={self.example}, or method={searching}"
            )
        if self.kind == "classifier" and "supernet" in kinds and "classifier" not in kinds:
            return (
                f"model.subnet: got '{self.subnet}', a single network, but method={method.name} takes a supernet,"
                " allowed: null; type model.subnet=null"
            )
        return None
