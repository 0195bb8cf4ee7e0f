"""Server-sent events by the letter of the WHATWG standards: slow, short, and nothing but the text.

What our decoder is held against. Written from the HTML standard, "Parsing an event stream" and
"Interpreting an event stream", and from the Encoding standard, "UTF-8 decoder", step by step and
one character at a time; it shares no code and no trick with ours, and knows no bounds.
"""

from collections.abc import Iterator

REPLACEMENT = "\ufffd"
BOM = "\ufeff"


def utf8(stream: bytes) -> Iterator[str]:
    """Run the UTF-8 decoder of the Encoding standard, in its replacement mode."""
    code_point = seen = needed = 0
    lower, upper = 0x80, 0xBF
    for byte in stream:
        if needed:
            if lower <= byte <= upper:
                lower, upper = 0x80, 0xBF
                code_point = (code_point << 6) | (byte & 0x3F)
                seen += 1
                if seen == needed:
                    yield chr(code_point)
                    code_point = seen = needed = 0
                continue
            code_point = seen = needed = 0
            lower, upper = 0x80, 0xBF
            yield REPLACEMENT  # and the byte is looked at again, as the first of a character
        if byte <= 0x7F:
            yield chr(byte)
        elif 0xC2 <= byte <= 0xDF:
            needed, code_point = 1, byte & 0x1F
        elif 0xE0 <= byte <= 0xEF:
            lower = 0xA0 if byte == 0xE0 else lower
            upper = 0x9F if byte == 0xED else upper
            needed, code_point = 2, byte & 0xF
        elif 0xF0 <= byte <= 0xF4:
            lower = 0x90 if byte == 0xF0 else lower
            upper = 0x8F if byte == 0xF4 else upper
            needed, code_point = 3, byte & 0x7
        else:
            yield REPLACEMENT
    if needed:
        yield REPLACEMENT


def lines(text: str) -> Iterator[str]:
    """Give every line that has its end: a pair of CR and LF, an LF alone, or a CR alone."""
    line = ""
    after_cr = False
    for character in text:
        if after_cr and character == "\n":
            after_cr = False
            continue
        after_cr = character == "\r"
        if character in {"\r", "\n"}:
            yield line
            line = ""
        else:
            line += character


def events(stream: bytes) -> list[str]:
    """Give the data of every event that is dispatched before the end of the file."""
    text = "".join(utf8(stream))
    if text.startswith(BOM):  # "strip one leading U+FEFF BYTE ORDER MARK, if any are present"
        text = text[1:]
    dispatched: list[str] = []
    data = ""
    for line in lines(text):
        if line == "":  # "dispatch the event": but an empty data buffer is no event
            if data != "":
                dispatched.append(data[:-1] if data[-1] == "\n" else data)
            data = ""
        elif line[0] == ":":
            pass  # "ignore the line"
        else:
            name, value = line, ""
            if ":" in line:
                colon = line.index(":")
                name, value = line[:colon], line[colon + 1 :]
                if value[:1] == " ":
                    value = value[1:]
            if name == "data":
                data += value + "\n"
    return dispatched
