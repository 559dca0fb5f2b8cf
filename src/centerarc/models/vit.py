"""Vision Transformers for faces, in the sizes of arcface_torch.

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale". Those of arcface_torch (An et al. 2022, "Killing Two Birds with One Stone: Efficient and
Robust Training of Face Recognition CNNs by Partial FC") cut the image into patches of 9 x 9
pixels, have no class token, and compute the embedding from all tokens. Parameters are named as
in the public checkpoints, which therefore load.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from centerarc.models.backbone import Backbone, apply_in_full_precision, register_model

_PATCH = 9
_HEADS = 8
_MLP_RATIO = 4
# Standard deviation of first weights.
_STD = 0.02


class Attention(nn.Module):
    """Self-attention of several heads; queries, keys and values have no bias."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, T, width)` to `(N, T, width)`."""
        # (N, T, 3, heads, width / heads) to three of (N, heads, T, width / heads).
        q, k, v = self.qkv(x).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()
        heads = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.dropout(self.proj(heads.transpose(1, 2).flatten(2)))
        return out


class Block(nn.Module):
    """Attention and an MLP, each added to what is normalized for it.

    Args:
        width: Length of a token.
        dropout: Probability of dropping a feature.
        drop_path: Probability of leaving out a branch for a sample.
    """

    def __init__(self, width: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, _MLP_RATIO * width),
                act=nn.ReLU6(),
                drop1=nn.Dropout(dropout),
                fc2=nn.Linear(_MLP_RATIO * width, width),
                drop2=nn.Dropout(dropout),
            )
        )
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, T, width)` to `(N, T, width)`."""
        x = x + self._branch(self.attn(self.norm1(x)), x)
        return x + self._branch(self.mlp(self.norm2(x)), x)

    def _branch(self, y: Tensor, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return y
        # In the precision of x: 1 / (1 - p) in bfloat16 would scale all samples wrongly.
        return y * F.dropout(x.new_ones(len(x), 1, 1), self.drop_path)


class VisionTransformer(Backbone):
    """A Vision Transformer with patches of 9 x 9 pixels and an embedding from all tokens.

    Rows and columns beyond the last whole patch are not seen: the last 4 of 112.

    Args:
        width: Length of a token, a multiple of 8.
        depth: Number of blocks.
        embedding_size: D, the length of the embedding.
        image_size: S, the side of the input in pixels; a multiple of 16.
        drop_path: Probability, in [0, 1), of leaving out a branch of the last block for a sample
            in training; it falls linearly to 0 in the first block.
        mask_ratio: Part of the patches, in [0, 1), that training leaves out of the blocks, chosen
            at random for each image and replaced by a learned token before the embedding.
        dropout: Probability, in [0, 1), of dropping a feature of the tokens, of the attention's
            output, and in and after the MLP.
        gradient_checkpointing: Compute the blocks a second time in the backward pass instead of
            keeping what is inside them: less memory, more time, the same gradients.

    Raises:
        ValueError: If a size or a probability is out of range.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        embedding_size: int,
        image_size: int,
        drop_path: float,
        mask_ratio: float,
        dropout: float,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__(embedding_size, image_size)
        rates = {"drop_path": drop_path, "mask_ratio": mask_ratio, "dropout": dropout}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}; it must be in [0, 1)")
        self.gradient_checkpointing = gradient_checkpointing
        self.patches = (image_size // _PATCH) ** 2
        self.kept = max(1, int(self.patches * (1 - mask_ratio)))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, _PATCH, _PATCH)))
        self.pos_embed = nn.Parameter(torch.empty(1, self.patches, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, dropout, drop_path * i / max(depth - 1, 1)) for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        # Public checkpoints have it in any case. Unused, it must not wait for a gradient in DDP.
        self.mask_token = nn.Parameter(
            torch.empty(1, 1, width), requires_grad=self.kept < self.patches
        )
        self.feature = nn.Sequential(
            nn.Linear(self.patches * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        nn.init.normal_(self.pos_embed, std=_STD)
        nn.init.normal_(self.mask_token, std=_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of the position embedding and the mask token."""
        return {"pos_embed", "mask_token"}

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(N, 3, S, S)` float images, scaled to [-1, 1], to `(N, D)` raw embeddings."""
        self.check_images(images)
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = self.dropout(x + self.pos_embed)
        masking = self.training and self.kept < self.patches
        if masking:
            noise = torch.rand(x.shape[:2], device=x.device)
            kept = noise.argsort(dim=1)[:, : self.kept, None].expand(-1, -1, x.shape[2])
            x = x.gather(1, kept)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        x = self.norm(x)
        if masking:
            x = self.mask_token.expand(len(x), self.patches, -1).scatter(1, kept, x)
        return apply_in_full_precision(x.flatten(1), *self.feature)


def _register(name: str, width: int, depth: int) -> None:
    @register_model(name)
    def build(
        *,
        embedding_size: int,
        image_size: int,
        drop_path: float = 0.1,
        mask_ratio: float = 0.1,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> VisionTransformer:
        return VisionTransformer(
            width,
            depth,
            embedding_size=embedding_size,
            image_size=image_size,
            drop_path=drop_path,
            mask_ratio=mask_ratio,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )


_register("vit_t", 256, 12)
_register("vit_s", 512, 12)
_register("vit_b", 512, 24)
_register("vit_l", 768, 24)
