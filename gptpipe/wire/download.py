"""What is at an address beside the endpoint: the vocabularies of the tokenizer."""

from __future__ import annotations

import time
from queue import Empty

from gptpipe.errors import ProtocolError, Temporary, Unavailable
from gptpipe.settings.settings import Settings
from gptpipe.text.address import masked
from gptpipe.wire.exchange import Exchange
from gptpipe.wire.sse import LARGEST
from gptpipe.wire.transport import Way

PATIENCE = 30.0  # seconds for a download


def download(url: str, settings: Settings) -> bytes:
    """Return what is at an address, by the proxy and the certificates of the settings.

    :raises Temporary: if it cannot be reached, or has not come after PATIENCE seconds.
    :raises Unavailable: if the server refuses it; ConfigError: if its certificate does not verify.
    """
    way = Way(settings._replace(base_url=url, headers={}), None)
    until = time.monotonic() + PATIENCE
    data = b""
    try:
        with Exchange(lambda exchange: way.get(exchange, url)) as exchange:
            head = exchange.head(PATIENCE)
            if head.status != 200:
                raise Unavailable(f"{masked(url)} answered with status {head.status}")
            for block in exchange.blocks(lambda: max(0.0, until - time.monotonic())):
                data += block
                if len(data) > LARGEST:
                    raise ProtocolError(f"{masked(url)} holds more than {LARGEST >> 20} MiB")
    except Empty:
        raise Temporary(f"{masked(url)} has not come within {PATIENCE:.0f} s") from None
    except Exception as error:
        raise way.failure(error, "") from error
    finally:
        way.close()
    return data
