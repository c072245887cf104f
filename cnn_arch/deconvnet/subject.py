"""What is looked into: a network with its variables, and the pictures that it is shown."""

import dataclasses
from typing import Any

import ml_collections

from cnn_arch.deconvnet.network import Network
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.receptive_field import Fields
from cnn_arch.weights import trained


@dataclasses.dataclass(frozen=True)
class Subject:
    """`variables` lie on the network's mesh; those that are missing are left out."""

    network: Network
    variables: Any
    pictures: Pictures
    batch: int  # images that are taken at once, over all devices

    @property
    def fields(self) -> dict[str, Fields]:
        """Of each layer that the variables suffice for: its receptive fields."""
        return self.network.fields(self.variables)


def restored(
    found: trained.Trained, config: ml_collections.ConfigDict, network: Network
) -> dict[str, Any]:
    """The variables that there are, on the network's mesh."""
    if isinstance(found, trained.Weights):
        return found.restore(config, network.mesh, partial=True)
    return found.restore(config, network.mesh)
