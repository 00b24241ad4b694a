"""TensorBoard's files, read back."""

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def events(directory):
    """The events of every file in the directory, in the order TensorBoard reads them, checksums checked."""
    found = []
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event, rest = data[12 : 12 + length], data[12 + length :]
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
            assert int.from_bytes(rest[:4], "little") == masked_crc32c(event)
            found.append(Event.FromString(event))
            data = rest[4:]
    return found
