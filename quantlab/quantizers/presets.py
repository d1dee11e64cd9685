"""What papers leave in full precision or hold in 8 bits, as exceptions from a quantizer's bits: quantizer.preset.

Numbers of different papers at "W4A8" are of different networks. Read in the released code of each (commits in
parentheses): Q-Diffusion (715783d) quantizes every layer; PTQD (6b190f9) leaves convolutions of shortcuts and of
resampling; TFMQ-DM (d551eac) leaves the ends as well; PCR (249a6a1) leaves the ends and attention's products; ViDiT-Q
(44126bd) the embedders and the final layer, Q-DiT (519d24a) modulation too: `transformer` is that of Q-DiT, which for
SD3 and Flux, whose papers quantize nothing, is what SVDQuant (69f3473) and Model-Optimizer (a2fbac7) leave beside
other things.

A pattern that finds no layer says nothing: a preset is for any network.
"""

EXEMPT, EIGHT = (32, 32), (8, 8)
Exemption = tuple[str, tuple[int, int]]  # pattern of a module's name, bits of weight and activation

RESAMPLED = r"conv_shortcut|(down|up)samplers\."
ENDS = r"^(conv_in|conv_out)$"
FIRST_OF_TIME = r"^time_embedding\.linear_1$"
PRODUCTS = r"\.processor\."
EMBEDDERS = (
    r"^(pos_embed|x_embedder|context_embedder|time_text_embed|caption_projection|adaln_single|norm_out|proj_out(_\d)?)"
    r"(\.|$)"
)
MODULATION = r"\.norm\w*\.(linear|emb)(\.|$)"

PRESETS: dict[str, tuple[Exemption, ...]] = {
    "none": (),
    "q_diffusion": (),
    "ptqd": ((RESAMPLED, EXEMPT), (FIRST_OF_TIME, EIGHT), (PRODUCTS, EXEMPT)),
    "tfmq": ((RESAMPLED, EXEMPT), (ENDS, EXEMPT), (FIRST_OF_TIME, EXEMPT)),
    "pcr": ((ENDS, EXEMPT), (PRODUCTS, EXEMPT)),
    "vidit_q": ((EMBEDDERS, EXEMPT),),
    "transformer": ((EMBEDDERS, EXEMPT), (MODULATION, EXEMPT)),
}
# By the class of the network; that of others: none
OWN = {
    "UNet2DModel": "q_diffusion",
    "UNet2DConditionModel": "pcr",
    "DiTTransformer2DModel": "transformer",
    "PixArtTransformer2DModel": "transformer",
    "SD3Transformer2DModel": "transformer",
    "FluxTransformer2DModel": "transformer",
}


def chosen(preset: str, network: object) -> str:
    """The preset itself, or where it is `auto` the one for the network."""
    return OWN.get(type(network).__name__, "none") if preset == "auto" else preset


def exemptions(preset: str, network: object) -> tuple[Exemption, ...]:
    """The exceptions of that preset for the network."""
    preset = chosen(preset, network)
    return PRESETS[preset]
