"""Which file a recipe begins with: Paddle's official weights, found or fetched, or one that it names."""

from __future__ import annotations

from pathlib import Path

from paddle.utils.download import WEIGHTS_HOME

from cifar_hapi.data.download import RemoteFile, fetch, has_md5
from cifar_hapi.errors import RecipeError
from cifar_hapi.loading import weights_file
from cifar_hapi.recipe import NetworkRecipe
from cifar_hapi.run import Run
from cifar_hapi.runtime import cache_folder


def _official(name: str, md5: str) -> RemoteFile:
    return RemoteFile(
        f"{name}.pdparams",
        md5,
        None,
        (f"https://paddle-hapi.bj.bcebos.com/models/{name}.pdparams",),
        instead="name a file that you have with --weights FILE (in Python: weights=)",
        elsewhere="name a file that you have with --weights FILE (in Python: weights=)",
    )


# As `paddle.vision.models` has them: trained on ImageNet, 1000 classes.
OFFICIAL = {
    "resnet18": _official("resnet18", "cf548f46534aa3560945be4b95cd11c4"),
    "resnet34": _official("resnet34", "8d2275cf8706028345f78ac0e1d31969"),
    "resnet50": _official("resnet50", "ca6f485ee1ab0492d38f323885b0ad80"),
}


def find_weights(network: NetworkRecipe, progress: bool = False) -> Path:
    """The file that `network.pretrained` means.

    "imagenet": what `paddle.vision.models` has downloaded before, where its MD5 sum is right, or the file in the user's
    cache folder, downloaded if need be (`progress` on standard error). All else is the path of a file, or of a run,
    whose last weights are meant. Raises RecipeError for a network that has no official weights, DataError where they
    cannot be had, and RunError for a run without any.
    """
    if network.pretrained != "imagenet":
        path = Path(str(network.pretrained)).expanduser()
        return weights_file(Run(path)) if (path / "run.json").is_file() else path
    _check_official(network)
    wanted = OFFICIAL[network.name]
    already = Path(WEIGHTS_HOME) / wanted.file_name
    return already if has_md5(already, wanted.md5) else fetch(wanted, cache_folder(), progress=progress)


def _check_official(network: NetworkRecipe) -> None:
    asked = "network.pretrained = imagenet"
    if network.name not in OFFICIAL:
        raise RecipeError(f"{asked}: there are weights for {', '.join(OFFICIAL)}, not for {network.name}")
    if network.stem != "imagenet":
        raise RecipeError(f"{asked}: the weights are for network.stem = imagenet; set that, too")
    if network.width not in (None, 64):
        raise RecipeError(f"{asked}: the weights have network.width 64, not {network.width}; leave the key out")
