"""Load a vision-language checkpoint, from a folder or a hub id: processor and model.

Everything that can be wrong with a checkpoint is found before weights are read where that is possible, and
reported as a `RecipeError` that names the recipe key. A load is strict: a checkpoint that lacks a tensor, or
brings one the architecture has no place for, is an error (transformers would fill in random numbers and
warn).

torch and transformers are imported inside the functions: importing this module is cheap.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from vlm import families
from vlm.common.errors import RecipeError
from vlm.common.versions import check_bitsandbytes, check_config
from vlm.pictures.budget import ROW_PIXELS, shared
from vlm.sections import ImageSection
from vlm.weights import INDEX, REMEDY, SINGLE, check_files, damaged, pickles_in, reading

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 3.0
"""How long to wait for a TCP connection to the hub before taking it for unreachable (its client retries for
23 s)."""


def hub_reachable() -> bool:
    """Whether the model hub answers; offline mode counts as no, a configured proxy as yes (it cannot be
    told)."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def looks_local(path: str) -> bool:
    """Whether `path` can only be meant as a folder: absolute, `./`, `../`, `~`, deeper than a hub id's `owner/name`, in
    a folder that is there, or below `runs`, where ours are."""
    owner = path.partition("/")[0]
    return (
        path.startswith(("/", "./", "../", "~", "runs/"))
        or path.count("/") > 1
        or path.endswith("/")
        or (owner != path and Path(owner).is_dir())
    )


def raw_config(path: str, revision: str | None = None) -> dict:
    """`config.json` of a checkpoint as a dict: folder first, then the hub cache, then the hub.

    Raises `RecipeError` when it is nowhere, or is no JSON object, or when the folder holds a LoRA adapter.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError(_no_config(folder))
        return read_json(folder / "config.json")
    if folder.exists():
        raise RecipeError(f"model.path: {path} is a file; expected a checkpoint folder or a hub id (owner/name)")
    if looks_local(path):
        raise RecipeError(
            f"model.path: no folder {path} (looked in {Path.cwd()}); expected a checkpoint folder or a hub "
            "id (owner/name)"
        )
    return read_json(at_hand(path, "config.json", revision) or _fetched(path, "config.json", revision))


def read_json(file: Path) -> dict:
    """A JSON object among a checkpoint's files. Raises `RecipeError` naming the file, and where it is broken."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of broken JSON, line and column
        raise RecipeError(f"model.path: {file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"model.path: {file} holds {type(found).__name__}; expected a JSON object")
    return found


def at_hand(path: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a checkpoint in its folder or the hub cache; None where it is in neither. Asks no network."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, name, revision=revision or "main")
    except HFValidationError:  # a path that can be no hub id
        return None
    return Path(found) if isinstance(found, str) else None


def stored_shapes(path: str, revision: str | None = None) -> dict[str, tuple[int, ...]] | None:
    """Name → shape of the tensors in a checkpoint's safetensors, read from the files' headers without torch; None where
    they are not all on this machine (a hub's, not yet fetched).

    Raises: RecipeError for a folder without weights or without a shard that its index names, and for a file that is
    damaged or cut short.
    """
    from safetensors import safe_open

    index = at_hand(path, INDEX, revision)
    names = sorted({*read_json(index).get("weight_map", {}).values()}) if index is not None else [SINGLE]
    files = {name: at_hand(path, name, revision) for name in names}
    absent = [name for name, file in files.items() if file is None]
    folder = Path(path).expanduser()
    if absent and not folder.is_dir():
        return None
    if absent:
        found = pickles_in(folder)
        why = f"{INDEX} names it" if index is not None else f"it holds {found[0]}; {REMEDY}" if found else "nor shards"
        raise RecipeError(f"{path} has no {absent[0]} ({why}); expected the weights of a whole checkpoint")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files.values():
        with damaged(str(file), "weights"), safe_open(str(file), framework="numpy") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _fetched(path: str, name: str, revision: str | None) -> Path:
    """A file of a checkpoint on the hub, put into its cache."""
    if not hub_reachable():
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        raise RecipeError(
            f"model.path: {path} is no folder here, it is not in the hub cache, and {why}; download it "
            f"where there is a connection (hf download {path} --local-dir DIR) and set model.path to DIR"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError  # of httpx or httpx2, by its version

    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except (HTTPError, OSError, ValueError) as error:
        said = [line for line in str(error).splitlines() if line and "Request ID" not in line]
        raise RecipeError(
            f"model.path: {path}{f' at revision {revision}' if revision else ''} is neither a folder nor a "
            f"model that the hub lets you read: {said[0] if said else type(error).__name__}"
        ) from error


def fetched_quietly(path: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a checkpoint on the hub; None where it cannot be had, or `path` is no hub id."""
    if Path(path).expanduser().exists() or looks_local(path):
        return None
    try:
        return _fetched(path, name, revision)
    except RecipeError:
        return None


def _no_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            f"model.path: {folder} holds a LoRA adapter, not a model; merge it into its base first: "
            f"python -m vlm.adapters {folder} OUT, then set model.path to OUT"
        )
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
    return f"model.path: {folder} has no config.json (it holds {found}); expected a checkpoint folder"


def source(path: str, revision: str | None = None) -> tuple[str, dict]:
    """Path and keywords for `from_pretrained`; off the network the cache is read immediately, not retried."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder), {"local_files_only": True}
    return path, {"revision": revision or "main", "local_files_only": looks_local(path) or not hub_reachable()}


def family_of(path: str, revision: str | None = None) -> families.Family:
    """The family of a checkpoint. Raises: RecipeError for one that sees no pictures, and as `raw_config`."""
    config = raw_config(path, revision)
    family = families.of(config)
    if not family.units and not isinstance(config.get("vision_config"), dict):
        named = ", ".join(one.name for one in families.FAMILIES.values())
        raise RecipeError(
            f"model.path: {path} has model_type {config.get('model_type')!r} (architectures "
            f"{config.get('architectures')}) and no vision_config; expected a vision-language model: {named}, or "
            "another that TRL trains"
        )
    if family.depth:
        check_config(config, f"model.path: config.json of {path}")
    return family


def load_processor(path: str, images, revision: str | None = None, trust_remote_code: bool = False):
    """Processor of a checkpoint with the recipe's pixel limits; the same pixels with and without torchvision. Of a
    family without a file its own, as `AutoProcessor` has it.

    Args:
        path: checkpoint folder or hub id.
        images: the recipe's `images:` section; `min_pixels`, `max_pixels` and `row_pixels` replace the checkpoint's
            own.
        revision: branch, tag or commit on the hub.

    Returns:
        A `vlm.pictures.processing` processor; padding side and the like are left as the tokenizer has them.
    """
    from transformers import AutoProcessor, AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    from vlm.pictures.processing import images_only

    family, given = family_of(path, revision), path
    config = raw_config(path, revision)
    sight = family.sight(config, images.min_pixels, images.max_pixels)
    path, where = source(path, revision)
    try:
        if not family.units:
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code, **where)
            processor.sight = shared(sight, images.row_pixels)
            return processor
        settings, _ = ProcessorMixin.get_processor_dict(path, **where)
        cls = family.class_of(family.image_processor)
        image_settings, _ = cls.get_image_processor_dict(path, **where)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **where)
    except (ImportError, OSError, ValueError) as error:
        raise RecipeError(
            f"model.path: {path} lacks tokenizer or image-processor files (preprocessor_config.json or "
            f"processor_config.json), or what reads them: {str(error).strip().splitlines()[0]}"
        ) from error
    check_vocabulary(tokenizer, config, given)
    for key in ("image_processor_type", "processor_class", ROW_PIXELS):
        image_settings.pop(key, None)
    template = settings.get("chat_template") or tokenizer.chat_template
    processor = images_only(family)(
        image_processor=cls(**family.settings(image_settings, sight)),
        tokenizer=tokenizer,
        chat_template=family.template(template) if isinstance(template, str) else template,
        **family.keywords(settings, config),
    )
    processor.video_settings, processor.sight = settings.get("video_processor"), sight
    processor.share_rows(images.row_pixels)
    return processor


def check_vocabulary(tokenizer, config: dict, path: str) -> None:
    """Refuse a tokenizer with ids that the embedding has no row for. Raises: RecipeError naming the first token."""
    text = config.get("text_config") or config
    size = text["vocab_size"] if "vocab_size" in text else families.read(config, f"{path}/config.json").vocabulary
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= size)
    if beyond:
        number, token = beyond[0]
        raise RecipeError(
            f"model.path: the tokenizer in {path} has {len(beyond)} tokens that the model has no row for: {token!r} is "
            f"number {number}, and vocab_size in config.json is {size}. Resize the embedding "
            "(model.resize_token_embeddings(len(tokenizer))) and save both together, or take the model's own tokenizer"
        )


def stored_limits(path: str, revision: str | None = None, base: str | None = None) -> ImageSection:
    """The pixel limits that a checkpoint, or an adapter saved with its processor, carries itself, the budget of a row
    (`vlm.pictures.budget`) among them. base: the checkpoint of an adapter, which has no config.json."""
    family = family_of(base or path, revision)
    if not family.units:
        return ImageSection()
    cls = family.class_of(family.image_processor)
    least, most = family.limits(cls.from_pretrained(path, revision=revision))
    row_pixels = cls.get_image_processor_dict(path, revision=revision)[0].get(ROW_PIXELS)
    # unchecked: whoever loads with them refuses impossible ones, as the recipe's
    return ImageSection.model_construct(min_pixels=least, max_pixels=most, row_pixels=row_pixels)


def flash_attention_fault(dtype: str = "bfloat16") -> str | None:
    """Why FlashAttention-2 cannot be used here, or None where it can."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    if dtype == "float32":
        return "it computes in bfloat16 or float16 only, and model.dtype is float32"
    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"it needs an Ampere GPU or newer, and this is a {torch.cuda.get_device_name()}"
    if not is_flash_attn_2_available():
        return "flash-attn 2 is not installed (pip install flash-attn --no-build-isolation)"
    return None


def resolve_attention(name: str, dtype: str = "bfloat16") -> str:
    """The attention to load with: `auto` is `flash_attention_2` where it works, else `sdpa` (logged).

    Raises `RecipeError` when `flash_attention_2` is asked for and is not available.
    """
    if name not in ("auto", "flash_attention_2", "sdpa", "eager"):
        raise RecipeError(f"model.attention: {name!r}; expected auto, flash_attention_2, sdpa or eager")
    if name in ("sdpa", "eager"):
        return name
    fault = flash_attention_fault(dtype)
    if fault is None:
        return "flash_attention_2"
    if name == "auto":
        logger.info("model.attention: auto uses sdpa, not flash_attention_2: %s", fault)
        return "sdpa"
    raise RecipeError(
        f"model.attention: flash_attention_2 cannot be used: {fault}. Set model.attention to sdpa, or to "
        "auto to fall back by itself"
    )


def placed(device) -> dict:
    """Keyword of `from_pretrained`: each tensor goes from its file to the device, one after another.

    On the way of `.to(device)` a process first holds all of them in host memory, if their type is not the file's: as
    float32 a 7B model takes 33 GB in each of eight. Those of the file's type lie in the page cache, once for all.
    device: None for no device in particular. MPS breaks while it converts (huggingface/transformers issue 48029).
    """
    import torch

    return {} if device is None or torch.device(device).type == "mps" else {"device_map": {"": torch.device(device)}}


def kept(family: families.Family) -> list[str]:
    """Linear layers that are not quantized, as transformers takes them: vision tower, merger and head, as in Qwen's own
    checkpoints in 4 and 8 bits. All that LoRA adapts by default is; embeddings, norms and biases are no linear layers'
    weights."""
    return [*(f".*{name}" for name in dict.fromkeys((*family.towers, *family.mergers))), "lm_head"]


def quantized(name: str | None, dtype: str, family: families.Family) -> dict:
    """Keyword of `from_pretrained`: the base of QLoRA (Dettmers et al. 2023, arXiv 2305.14314): NF4 in blocks of 64
    weights, whose scales are 8 bits in blocks of 256 (double quantization); multiplied in `dtype`.

    Raises: RecipeError where bitsandbytes is not installed.
    """
    if name is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    check_bitsandbytes(f"model.quantization {name}")
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=name,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            llm_int8_skip_modules=kept(family),  # of 4 bits, too
        )
    }


def check_stored(config: dict, section) -> None:
    """Refuse to quantize what is stored quantized, which transformers would load as it is. config: `raw_config`.

    Raises: RecipeError.
    """
    if section.quantization is not None and (stored := config.get("quantization_config")):
        how = stored.get("quant_method", "an unknown method") if isinstance(stored, dict) else stored
        raise RecipeError(
            f"model.quantization {section.quantization}: the weights in {section.path} are quantized already ({how}); "
            "name the checkpoint that they were made from"
        )


def as_trained(model) -> None:
    """Keep bitsandbytes 0.50 from packing weights for a CPU with AVX512-BF16 in a pass without gradients, as of a
    rollout: no gradient goes through what is packed, and it stays packed."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_model(section, device=None):
    """Model of a recipe's `model:` section: `dtype` and attention set; nothing frozen yet, no LoRA.

    The config of one from the hub has its commit (`commit_of`); transformers 5.23 keeps it no more, and saves none.

    device: where it shall lie (`placed`); None for the host's memory, and under ZeRO-3, which splits while it loads.

    Raises `RecipeError` for a missing checkpoint, another architecture, impossible attention, or weights that
    do not match the architecture exactly.
    """
    family = family_of(section.path, section.revision)
    config = raw_config(section.path, section.revision)
    check_stored(config, section)
    tied = family.tied(config)
    attention = resolve_attention(section.attention, section.dtype)

    import torch

    from vlm.prefix import pad_once

    path, where = source(section.path, section.revision)
    check_files(path, where)
    with reading(section.path, "model.path"):
        model, info = family.model_class.from_pretrained(
            path,
            **where,
            **placed(device),
            **({} if tied is None else {"tie_word_embeddings": tied}),
            **quantized(section.quantization, section.dtype, family),
            dtype=getattr(torch, section.dtype),
            attn_implementation=attention,
            trust_remote_code=section.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # or transformers would refuse them by "see the report above"
        )
    vars(model.generation_config).pop("tie_word_embeddings", None)  # where transformers puts that keyword, too
    check_loaded(info, section.path, tied=model.config.tie_word_embeddings)
    if (head := model.get_output_embeddings()) is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False  # transformers goes by the file, and would go by this when it saves
    if (held := at_hand(section.path, "config.json", section.revision)) is not None and held.parent != Path(path):
        model.config._commit_hash = held.parent.name  # of the hub: what is loaded by its name later is to be the same
    # Under ZeRO-3 transformers 5.23 remembers renamings that this checkpoint did not need, and would save names that
    # only it can read (model.model.embed_tokens); with none remembered it saves the published ones.
    model._weight_conversions = None
    as_trained(model)
    pad_once(model)
    family.settle(model)
    return model if device is None else model.to(device)


def commit_of(model) -> str | None:
    """The hub's commit that `load_model` took a model from; None of a folder, or of a model loaded otherwise."""
    return vars(model.config).get("_commit_hash")


def quantization_of(model) -> str | None:
    """What a model's linear layers are held in: nf4; None where nothing is quantized (any more)."""
    found = vars(model.config).get("quantization_config")
    return found and vars(found).get("bnb_4bit_quant_type")


def check_loaded(info: dict, path: str, tied: bool) -> None:
    """Raise `RecipeError` unless every tensor of the model was in the checkpoint and the other way round.

    `info` is what `from_pretrained(output_loading_info=True)` returns. A tied `lm_head` need not be stored.
    Under ZeRO-3 transformers 5.23 does not report unexpected tensors, so there only missing ones are found.
    """
    missing = {key for key in info["missing_keys"] if not (tied and key == "lm_head.weight")}
    if fault := mismatch(missing, set(info["unexpected_keys"]), info):
        raise RecipeError(
            f"model.path: the weights in {path} do not match its architecture: {fault}. "
            "Is it a score model, an adapter, or an incomplete download?"
        )


def mismatch(missing: set[str], unexpected: set[str], info: dict) -> str:
    """What a checkpoint lacks and what its architecture has no place for, in words; empty where all fits."""
    faults = [
        f"it {label} {len(keys)} tensors ({', '.join(sorted(keys)[:3])}{', …' if len(keys) > 3 else ''})"
        for label, keys in (("lacks", missing), ("has no place for", unexpected))
        if keys
    ]
    shapes = sorted(info.get("mismatched_keys", ()))  # of headers read without transformers there are none
    if shapes:
        said = [f"{key} is {list(found)} and by config.json {list(wanted)}" for key, found, wanted in shapes[:3]]
        said += [f"and {len(shapes) - 3} more"] if len(shapes) > 3 else []
        faults.append(f"shapes differ: {', '.join(said)}")
    return "; ".join([*faults, *(f"it {message}" for message in info["error_msgs"] or ())])
