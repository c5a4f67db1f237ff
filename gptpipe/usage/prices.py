"""What requests cost, in US dollars: by ``genai-prices``, as it is installed.

Nothing here asks the network for newer prices. The user's own prices come first. An unknown price is None, not 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gptpipe.message import Counts
from gptpipe.settings.settings import Price, Settings

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

_USUAL_TIERS = (None, "auto", "default", "standard")
_BATCH = "batch"


def batch_tier(window: str) -> str:
    """Return the tier of requests in a batch that is done within the window; prices are known of one day's alone."""
    return _BATCH if window == "24h" else f"{_BATCH} {window}"


def cost(used: Counts, settings: Settings, at: str | None = None, tier: str | None = None) -> float | None:
    """Return what a request under these settings cost in USD, or None if that is not known.

    The service tier is that of the settings, unless ``tier`` is given.
    """
    tier = tier or settings.params.get("service_tier")
    return price(settings.model, used, settings.base_url, settings.prices, at, tier)


def price(
    model: str,
    used: Counts,
    base_url: str | None,
    own: Mapping[str, Price],
    at: str | None = None,
    tier: object = None,
) -> float | None:
    """Return what a request cost in USD, or None if that is not known.

    ``base_url`` is the endpoint that answered: the price of a model differs between providers. ``own`` are the user's
    prices by model. ``at`` is when it was asked (ISO 8601), ``tier`` its ``service_tier``: some prices depend on them.
    """
    if model in own:
        return _own(own[model], used)
    if base_url is None:
        return None
    found = _look_up(model, used, base_url, at)
    if found and tier not in _USUAL_TIERS:
        usual, found = found, _look_up(model, used, base_url, at, str(tier))
        if found and found.total_price == usual.total_price:  # the library does not know this tier
            return None
    if found is None or found.model_price.input_mtok is None:
        return None
    if used.output and found.model_price.output_mtok is None:
        return None
    return float(found.total_price)


def _own(mine: Price, used: Counts) -> float:
    cached = mine.input if mine.cached is None else mine.cached
    return ((used.input - used.cached) * mine.input + used.cached * cached + used.output * mine.output) / 1_000_000


def _look_up(
    model: str, used: Counts, base_url: str, at: str | None, tier: str | None = None
) -> PriceCalculation | None:
    from datetime import datetime

    from genai_prices import Usage, calc_price

    usage = Usage(
        input_tokens=used.input,
        output_tokens=used.output,
        cache_read_tokens=min(used.cached, used.input),
        output_reasoning_tokens=min(used.reasoning, used.output),
    )
    kind = "processing" if tier == _BATCH else "service_tier"
    when = datetime.fromisoformat(at) if at else None
    try:
        return calc_price(
            usage,
            model,
            provider_api_url=base_url,
            genai_request_timestamp=when,
            price_context={kind: tier} if tier else None,
        )
    except LookupError:
        return None
