"""What the public checkpoints hold, by rules written from arcface_torch's code."""

Shapes = dict[str, tuple[int, ...]]

IRESNET_DEPTHS = {
    "iresnet10": (1, 1, 1, 1),  # which arcface_torch does not have; by the same rules
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}
# Length of a token, number of blocks.
VIT_SIZES = {"vit_t": (256, 12), "vit_s": (512, 12), "vit_b": (512, 24), "vit_l": (768, 24)}


def norm(prefix: str, channels: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{v}": (channels,) for v in vectors} | {f"{prefix}.num_batches_tracked": ()}


def public_iresnet(depths: tuple[int, ...], embedding_size: int) -> Shapes:
    """Names and shapes in a checkpoint of arcface_torch's iresnet at 112 x 112."""
    shapes: Shapes = {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (64,)} | norm("bn1", 64)
    before = 64
    for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), 1):
        for unit in range(depth):
            name = f"layer{stage}.{unit}"
            shapes |= norm(f"{name}.bn1", before)
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            shapes |= norm(f"{name}.bn2", width)
            shapes[f"{name}.prelu.weight"] = (width,)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm(f"{name}.bn3", width)
            if unit == 0:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            before = width
    shapes |= norm("bn2", 512)
    shapes |= {"fc.weight": (embedding_size, 512 * 7 * 7), "fc.bias": (embedding_size,)}
    return shapes | norm("features", embedding_size)


def public_mobilefacenet(depths: tuple[int, ...], scale: int, embedding_size: int) -> Shapes:
    """Names and shapes in a checkpoint of arcface_torch's mobilefacenet at 112 x 112."""
    shapes: Shapes = {}

    def block(name: str, out: int, ins: int, kernel: int, act: bool = True) -> None:
        shapes[f"{name}.layers.0.weight"] = (out, ins, kernel, kernel)
        shapes.update(norm(f"{name}.layers.1", out))
        if act:
            shapes[f"{name}.layers.2.weight"] = (out,)

    def depthwise(name: str, ins: int, hidden: int, out: int) -> None:
        block(f"{name}.layers.0", hidden, ins, 1)
        block(f"{name}.layers.1", hidden, 1, 3)
        block(f"{name}.layers.2", out, hidden, 1, act=False)

    def residual(name: str, width: int, hidden: int, depth: int) -> None:
        for unit in range(depth):
            depthwise(f"{name}.layers.{unit}", width, hidden, width)

    narrow, wide = 64 * scale, 128 * scale
    block("layers.0", narrow, 3, 3)
    if depths[0] == 1:
        block("layers.1", narrow, scale, 3)
    else:
        residual("layers.1", narrow, 128, depths[0])
    depthwise("layers.2", narrow, 128, narrow)
    residual("layers.3", narrow, 128, depths[1])
    depthwise("layers.4", narrow, 256, wide)
    residual("layers.5", wide, 256, depths[2])
    depthwise("layers.6", wide, 512, wide)
    residual("layers.7", wide, 256, depths[3])
    block("conv_sep", 512, wide, 1)
    block("features.layers.0", 512, 1, 7, act=False)
    shapes["features.layers.2.weight"] = (embedding_size, 512)
    return shapes | norm("features.layers.3", embedding_size)


def public_vit(width: int, depth: int, patches: int, embedding_size: int) -> Shapes:
    """Names and shapes in a checkpoint of arcface_torch's ViT with this many patches."""

    def affine(name: str, out: int, *ins: int) -> None:
        shapes.update({f"{name}.weight": (out, *ins), f"{name}.bias": (out,)})

    shapes: Shapes = {"pos_embed": (1, patches, width), "mask_token": (1, 1, width)}
    affine("patch_embed.proj", width, 3, 9, 9)
    for block in range(depth):
        name = f"blocks.{block}"
        affine(f"{name}.norm1", width)
        shapes[f"{name}.attn.qkv.weight"] = (3 * width, width)
        affine(f"{name}.attn.proj", width, width)
        affine(f"{name}.norm2", width)
        affine(f"{name}.mlp.fc1", 4 * width, width)
        affine(f"{name}.mlp.fc2", width, 4 * width)
    affine("norm", width)
    shapes["feature.0.weight"] = (width, width * patches)
    shapes |= norm("feature.1", width)
    shapes["feature.2.weight"] = (embedding_size, width)
    return shapes | norm("feature.3", embedding_size)


PUBLIC = {name: public_iresnet(depths, 512) for name, depths in IRESNET_DEPTHS.items()} | {
    "mobilefacenet": public_mobilefacenet((1, 4, 6, 2), 2, 512),
    "mobilefacenet_small": public_mobilefacenet((1, 4, 6, 2), 1, 512),
    "mobilefacenet_large": public_mobilefacenet((2, 8, 12, 4), 4, 512),
}
PUBLIC |= {name: public_vit(*size, 144, 512) for name, size in VIT_SIZES.items()}
