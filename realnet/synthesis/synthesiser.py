"""Batched synthesis of local anomalies: A = (1 - M) I + M [delta P + (1 - delta) I].

The sources `cutpaste` and `nsa` make A and M in their own ways (``patch_anomalies.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from realnet.config.sections import OWN_MASKS, Synthesis
from realnet.core.seeds import numpy_generator, torch_generator
from realnet.synthesis.patch_anomalies import cutpaste, nsa
from realnet.synthesis.perlin import perlin_masks, uniforms_needed
from realnet.synthesis.sources import augment_texture

MAX_DRAWS = 8  # of a mask, before an image has no anomaly
_OWN = 3  # uniforms of an item besides its mask's: source type, image of the pool, opacity


@dataclass(frozen=True)
class SyntheticBatch:
    """A batch of synthetic anomalies with the source of each.

    An item whose mask is empty is unchanged, even where a source was drawn for it.
    """

    images: torch.Tensor  # A, uint8 [B, 3, S, S]
    masks: torch.Tensor  # M, bool [B, S, S]; all False for normal items
    sources: tuple[str, ...]  # "normal", or a source
    source_index: torch.Tensor  # int64 [B], place in the source's pool; -1: normal and cutpaste
    opacity: torch.Tensor  # delta, float32 [B]; 1 for cutpaste and nsa, 0 for normal
    # Blended source -> its images, uint8 [P, 3, S, S], and each item's place there, int64 [B].
    blended: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def patch(self, row: int) -> torch.Tensor:
        """P of an item, uint8 ``[3, S, S]``; A itself where nothing was blended."""
        if self.sources[row] not in self.blended:
            return self.images[row]
        pool, places = self.blended[self.sources[row]]
        return pool[places[row]]


class AnomalySynthesiser:
    """Draws anomalies for batches of normal images.

    Everything is decided by (seed, names, item), so neither batch size nor device nor order
    matters; the arithmetic is batched on ``device``.

    pools: as of ``build_pools``.
    """

    def __init__(
        self,
        params: Synthesis,
        pools: dict[str, torch.Tensor],
        seed: int,
        *names: str | int,
        anomalous_only: bool = False,
    ):
        self.params, self.pools, self.seed, self.names = params, pools, seed, names
        weights = {n: p for n, p in params.sources.items() if p > 0}
        if anomalous_only:  # AFS: the normal type is removed, the others are equiprobable
            weights = {n: 1.0 for n in weights if n != "normal"}
        self.types: list[str] = list(weights)
        self.opacity: dict[str, list[float]] = {n: limits for n, limits in params.opacity.items()}
        self.cumulative = torch.tensor(list(weights.values())).cumsum(0)
        self.cumulative /= self.cumulative[-1].clone()

    def __call__(
        self, images: torch.Tensor, foregrounds: torch.Tensor, first_item: int
    ) -> SyntheticBatch:
        """Anomalies for images uint8 ``[B, 3, S, S]``; they are items first_item, first_item+1, ...

        Each item is normal (unchanged, empty mask) or takes one source, by ``sources``.
        """
        batch, size, device = len(images), images.shape[-1], images.device
        items = range(first_item, first_item + batch)
        uniforms = self._uniforms(items, attempt=0)
        drawn = torch.searchsorted(self.cumulative, uniforms[:, 0].contiguous(), right=True)
        drawn = drawn.clamp(max=len(self.types) - 1)
        # These have masks of Perlin noise: neither normal nor of a source with masks of its own.
        anomalous = torch.tensor([n not in ("normal", *OWN_MASKS) for n in self.types])[drawn]
        masks = self._masks(uniforms, foregrounds, size)
        if not anomalous.all():
            masks[~anomalous.to(device)] = False
        if self.params.empty_masks == "redraw":
            masks = self._redraw(masks, anomalous, foregrounds, items, size)

        # Only the pixels inside the masks (about 5 %) are looked up, blended and written.
        result = images.clone()
        flat, area = result.view(-1), size**2
        inside = masks.view(-1).nonzero().flatten()
        owner = inside // area
        pixel = inside - owner * area
        type_of = drawn.to(device)[owner]
        source_index = torch.full((batch,), -1)
        opacities = torch.zeros(batch)
        blended: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for index, name in enumerate(self.types):
            rows = torch.nonzero(drawn == index).flatten()
            if name == "normal" or not len(rows):
                continue
            if name in OWN_MASKS:
                opacities[rows] = 1.0
                for row in rows.tolist():
                    if name == "nsa":
                        source_index[row] = self.other(images[row], uniforms[row])
                    anomaly = self._own(
                        name, images[row], foregrounds[row], items[row], int(source_index[row])
                    )
                    if anomaly is not None:
                        result[row], masks[row] = (part.to(device) for part in anomaly)
                continue
            numbers = self._pool_index(name, uniforms)
            pool, chosen = self._patches(name, rows, numbers, items)
            low, high = self.opacity[name]
            source_index[rows] = numbers[rows]
            opacities[rows] = low + (high - low) * uniforms[rows, 2]
            blended[name] = pool, chosen
            mine = slice(None) if len(rows) == batch else type_of == index
            item, place = owner[mine], pixel[mine]
            opacity = (low + (high - low) * uniforms[:, 2].to(device))[item]
            source = chosen.to(device)[item] * (3 * area) + place
            target = item * (3 * area) + place
            texels = pool.view(-1)
            for plane in (0, area, 2 * area):  # red, green, blue
                patch = texels[(source + plane).to(texels.device)].to(device)
                where = target + plane
                mixed = blend(flat[where], patch, opacity, self.params.rounding)
                flat.index_copy_(0, where, mixed)
        sources = tuple(self.types[index] for index in drawn.tolist())
        return SyntheticBatch(result, masks, sources, source_index, opacities, blended)

    def _own(
        self,
        name: str,
        image: torch.Tensor,
        foreground: torch.Tensor,
        item: int,
        other: int,
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A uint8 ``[3, S, S]`` and M bool ``[S, S]``, on the CPU, of a source with own masks.

        other: place in the pool of the normal image that `nsa` takes patches from. None, and the
        item stays normal, where none of several draws gives an anomaly.
        """
        rng = numpy_generator(self.seed, *self.names, name, item)
        picture, product = _picture(image), foreground.cpu().numpy()
        if name == "nsa":
            origin = _picture(self.pools["nsa"][other])
            its_product = self.pools["nsa_foregrounds"][other].cpu().numpy()
        for _ in range(MAX_DRAWS):
            anomaly = (
                cutpaste(picture, product, self.params.cutpaste, rng)
                if name == "cutpaste"
                else nsa(picture, product, origin, its_product, self.params.nsa, rng)
            )
            if anomaly is not None:
                result = torch.from_numpy(anomaly[0]).permute(2, 0, 1)
                return result, torch.from_numpy(anomaly[1])
        return None

    def other(self, image: torch.Tensor, uniforms: torch.Tensor) -> int:
        """Place of the normal image that an NSA item takes its patches from.

        Not the item's own image, uint8 ``[3, S, S]``, unless there is no other. uniforms: the
        item's row.
        """
        pool = self.pools["nsa"]
        chosen = min(int(uniforms[1] * len(pool)), len(pool) - 1)
        same = torch.equal(pool[chosen].to(image.device), image)
        return (chosen + 1) % len(pool) if same else chosen

    def _pool_index(self, name: str, uniforms: torch.Tensor) -> torch.Tensor:
        """int64 ``[B]``: the image of the pool that each item takes, were it of this source."""
        count = len(self.pools[name])
        return (uniforms[:, 1] * count).long().clamp(max=count - 1)

    def _patches(
        self, name: str, rows: torch.Tensor, chosen: torch.Tensor, items: range
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The images to blend in, and the place of each item's image among them (rows only).

        chosen: as of :meth:`_pool_index`. Textures of DTD are augmented separately for each item.
        """
        pool = self.pools[name]
        if name != "dtd":
            return pool, chosen.to(pool.device)
        augmented = [
            augment_texture(
                pool[chosen[row]].cpu(), torch_generator(self.seed, *self.names, "dtd", items[row])
            )
            for row in rows.tolist()
        ]
        place = torch.zeros(len(items), dtype=torch.long)
        place[rows] = torch.arange(len(rows))
        return torch.stack(augmented), place

    def _uniforms(self, items: range | list[int], attempt: int) -> torch.Tensor:
        """One row of uniform numbers per item; a redraw of the mask is another row."""
        count = _OWN + uniforms_needed(self.params.perlin)
        rows = torch.empty(len(items), count)
        for row, item in zip(rows, items, strict=True):
            row.uniform_(generator=torch_generator(self.seed, *self.names, item, attempt))
        return rows

    def _masks(self, uniforms: torch.Tensor, foregrounds: torch.Tensor, size: int) -> torch.Tensor:
        perlin = perlin_masks(uniforms[:, _OWN:].to(foregrounds.device), size, self.params.perlin)
        # As bytes: torch's "and" of booleans is several times slower.
        perlin.view(torch.uint8).bitwise_and_(foregrounds.view(torch.uint8))
        return perlin

    def _redraw(
        self,
        masks: torch.Tensor,
        anomalous: torch.Tensor,
        foregrounds: torch.Tensor,
        items: range,
        size: int,
    ) -> torch.Tensor:
        """Resample empty masks (about 5 %); the official code keeps them."""
        for attempt in range(1, MAX_DRAWS):
            empty = torch.nonzero(anomalous & ~masks.flatten(1).any(1).cpu()).flatten()
            if not len(empty):
                break
            uniforms = self._uniforms([items[i] for i in empty.tolist()], attempt)
            where = empty.to(masks.device)
            masks[where] = self._masks(uniforms, foregrounds[where], size)
        return masks


def _picture(image: torch.Tensor) -> np.ndarray:
    """uint8 ``[S, S, 3]``, contiguous, from ``[3, S, S]`` on any device."""
    return image.permute(1, 2, 0).cpu().contiguous().numpy()


def blend(
    image: torch.Tensor, patch: torch.Tensor, opacity: torch.Tensor, rounding: str = "round"
) -> torch.Tensor:
    """delta P + (1 - delta) I at the pixels of the mask, uint8; paper's equation for A.

    image I and patch P: uint8, any equal shapes; opacity delta in [0, 1], broadcastable.
    rounding: ``round``, or ``truncate`` as the official code does.
    """
    mixed = torch.lerp(image.float(), patch.float(), opacity)
    return (mixed.round() if rounding == "round" else mixed).to(torch.uint8)
