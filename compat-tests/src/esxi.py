# The pages of an ESXi server: PAGES CERTIFICATE PASSWORD. PAGES has DATACENTRE/DATASTORE/DIRECTORY/FILE.
import base64, http.server, os, ssl, sys
from urllib.parse import parse_qs, quote, unquote, urlsplit

root, certificate, password = sys.argv[1:]
wanted = "Basic " + base64.b64encode(f"root:{password}".encode()).decode()


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        if self.headers["Authorization"] != wanted:
            return self.answer(401, headers=[("WWW-Authenticate", 'Basic realm="VMware HTTP server"')])
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        inside = unquote(url.path).removeprefix("/folder").strip("/")
        parts = [query[key] for key in ("dcPath", "dsName") if key in query]
        place = os.path.join(root, *parts, inside)
        if os.path.isdir(place):
            links = []
            for name in sorted(os.listdir(place)):
                if len(parts) < 2:
                    keys = zip(("dcPath", "dsName"), parts + [name])
                    path = ""
                else:
                    keys = zip(("dcPath", "dsName"), parts)
                    path = "/" + quote(os.path.join(inside, name))
                    path += "/" if os.path.isdir(os.path.join(place, name)) else ""
                ask = "&amp;".join(f"{key}={quote(value, safe='')}" for key, value in keys)
                links.append(f'<a href="/folder{path}?{ask}">{name}</a>')
            return self.answer(200, "\n".join(links).encode())
        if not os.path.isfile(place):
            return self.answer(404)
        data = open(place, "rb").read()
        if self.command == "HEAD":
            return self.answer(200, headers=[("Content-Length", str(len(data))), ("Accept-Ranges", "bytes")])
        if "Range" not in self.headers:
            return self.answer(200, data, [("Accept-Ranges", "bytes")])
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data)) + 1]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        self.answer(206, part, [("Content-Range", span), ("Accept-Ranges", "bytes")])

    do_HEAD = do_GET


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("port", server.server_address[1])
sys.stdout.flush()
server.serve_forever()
