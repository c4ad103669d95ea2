"""All decoders, by name."""

from tests.fuzz import ledger_decoders, mail_decoders, server_decoders, store_decoders
from tests.fuzz.decoder import Decoder

DECODERS: dict[str, Decoder] = {
    decoder.name: decoder
    for decoder in (
        *store_decoders.DECODERS,
        *mail_decoders.DECODERS,
        *ledger_decoders.DECODERS,
        *server_decoders.DECODERS,
    )
}
