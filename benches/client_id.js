// For nginx with njs: keeps the client id of the CONNECT that nginx holds back in its preread phase.
var cid = '';
function varint(bytes, at) {
    var value = 0, factor = 1;
    for (var i = 0; i < 4; i++) {
        if (at + i >= bytes.length) { return null; }
        value += (bytes[at + i] & 127) * factor;
        if (bytes[at + i] < 128) { return [value, at + i + 1]; }
        factor *= 128;
    }
    return null;
}
function preread(s) {
    s.on('upstream', function (bytes, flags) {
        if (bytes.length < 2) { return; }
        if (bytes[0] !== 0x10) { s.deny(); return; }
        var remaining = varint(bytes, 1);
        if (remaining === null || bytes.length < remaining[1] + remaining[0]) { return; }
        var at = remaining[1];
        at += 2 + bytes.readUInt16BE(at);
        var level = bytes[at] & 0x7f;
        at += 4;
        if (level === 5) { var properties = varint(bytes, at); at = properties[1] + properties[0]; }
        cid = bytes.slice(at + 2, at + 2 + bytes.readUInt16BE(at)).toString();
        s.done();
    });
}
function id(s) { return cid; }
export default { preread: preread, id: id };
