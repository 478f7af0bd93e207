"""Public datasets in miniature: files as they are published, and readers of them that use nothing of the package."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import random
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl

__all__ = ["NAMES", "PUBLISHED"]

# User, item, what orders them.
Events = list[tuple[str, str, Any]]
Files = dict[str, bytes]

SECONDS = 1_500_000_000
NAMES = ["Café Müller", 'The "Big" One, 5" disk', "Amélie; (2001)", "L'Étoile", "plain"]


def draw(source: random.Random, users: int = 7, length: int = 9) -> Iterator[tuple[int, int, int]]:
    """User, item, and a time that occurs once, in any order."""
    events = [
        (user, source.randrange(20), 0) for user in range(1, users + 1) for _ in range(8 + source.randrange(length))
    ]
    times = source.sample(range(10_000), len(events))
    source.shuffle(events)
    return ((user, item, time) for (user, item, _), time in zip(events, times, strict=True))


def zipped(path: str, members: Files) -> Files:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return {path: data.getvalue()}


def member(files: Files, path: str, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(files[path])) as archive:
        return archive.read(name)


def lines(data: bytes, encoding: str = "utf-8") -> list[str]:
    return [line for line in data.decode(encoding).replace("\r\n", "\n").split("\n") if line]


def moment(seconds: int) -> datetime:
    return datetime(2012, 4, 3, tzinfo=timezone.utc) + timedelta(seconds=seconds * 997)


# One pair each: files as they are shipped, and a reader of them that has nothing of the package.


def write_ml_100k(source: random.Random) -> Files:
    data = "".join(f"{user}\t{item}\t{1 + item % 5}\t{SECONDS + time}\n" for user, item, time in draw(source))
    flags = "|".join("0" * 19)
    items = "".join(f"{item}|{NAMES[item % 4]}|01-Jan-1995||http://x/?{item}|{flags}\n" for item in range(20))
    return zipped("ml-100k.zip", {"ml-100k/u.data": data.encode(), "ml-100k/u.item": items.encode("latin-1")})


def read_ml_100k(files: Files) -> Events:
    rows = [line.split("\t") for line in lines(member(files, "ml-100k.zip", "ml-100k/u.data"))]
    return [(user, item, int(time)) for user, item, _, time in rows]


def double_colons(source: random.Random, path: str, folder: str, encoding: str, half: float) -> Files:
    rows = (f"{user}::{item}::{1 + half * (item % 5):g}::{SECONDS + time}\n" for user, item, time in draw(source))
    movies = "".join(f"{item}::{NAMES[item % 4]}::Drama|War\n" for item in range(20)).encode(encoding)
    return zipped(path, {f"{folder}/ratings.dat": "".join(rows).encode(), f"{folder}/movies.dat": movies})


def read_double_colons(files: Files, path: str, folder: str) -> Events:
    rows = [line.split("::") for line in lines(member(files, path, f"{folder}/ratings.dat"))]
    return [(user, item, int(time)) for user, item, _, time in rows]


def write_ml_25m(source: random.Random) -> Files:
    rows = "".join(f"{user},{item},4.5,{SECONDS + time}\r\n" for user, item, time in draw(source))
    movies = io.StringIO(newline="")
    csv.writer(movies).writerows([["movieId", "title", "genres"], *([n, NAMES[n % 4], "War"] for n in range(20))])
    ratings = f"userId,movieId,rating,timestamp\r\n{rows}".encode()
    return zipped("ml-25m.zip", {"ml-25m/ratings.csv": ratings, "ml-25m/movies.csv": movies.getvalue().encode()})


def read_ml_25m(files: Files) -> Events:
    rows = [line.split(",") for line in lines(member(files, "ml-25m.zip", "ml-25m/ratings.csv"))[1:]]
    return [(user, item, int(time)) for user, item, _, time in rows]


def write_yoochoose(source: random.Random) -> Files:
    rows = ((user, moment(time).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z", item) for user, item, time in draw(source))
    categories = ("0", "S", "7")
    text = "".join(f"{user},{time},{214500000 + item},{categories[item % 3]}\n" for user, time, item in rows)
    return {"yoochoose-clicks.dat": text.encode()}


def read_yoochoose(files: Files) -> Events:
    rows = [line.split(",") for line in lines(files["yoochoose-clicks.dat"])]
    return [(user, item, datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%fZ")) for user, time, item, _ in rows]


def write_diginetica(source: random.Random) -> Files:
    text = "sessionId;userId;itemId;timeframe;eventdate\n" + "".join(
        f"{user};{'NA' if user % 3 else 1000 + user};{item};{time * 331};2016-05-{10 + user:02}\n"
        for user, item, time in draw(source)
    )
    return {"train-item-views.csv": text.encode()}


def read_diginetica(files: Files) -> Events:
    rows = [line.split(";") for line in lines(files["train-item-views.csv"])[1:]]
    return [(session, item, (day, int(frame))) for session, _, item, frame, day in rows]


def write_retailrocket(source: random.Random) -> Files:
    kinds = ("view", "view", "view", "addtocart", "transaction")
    text = "timestamp,visitorid,event,itemid,transactionid\n"
    for user, item, time in draw(source, length=15):
        kind = kinds[time % 5]
        text += f"{(SECONDS + time) * 1000 + 117},{user},{kind},{item},{time if kind == 'transaction' else ''}\n"
    return {"events.csv": text.encode()}


def read_retailrocket(files: Files) -> Events:
    rows = csv.DictReader(io.StringIO(files["events.csv"].decode()))
    return [(row["visitorid"], row["itemid"], int(row["timestamp"])) for row in rows if row["event"] == "view"]


def write_steam(source: random.Random) -> Files:
    text = ""
    for user, item, time in draw(source):
        day = f"2017-{1 + time % 3:02}-{1 + time % 2:02}"
        text += (
            f"{{u'username': u'Jos\\xe9 \"{user}\"', u'hours': 0.{item}, u'products': 41, u'product_id': u'{item}', "
            f"u'page_order': 0, u'date': u'{day}', u'text': u\"It's \\u2764 {{it}}\", u'early_access': False, "
            f"u'found_funny': None, u'page': 1}}\n"
        )
    return {"steam_reviews.json.gz": gzip.compress(text.encode())}


def read_steam(files: Files) -> Events:
    rows = map(ast.literal_eval, lines(gzip.decompress(files["steam_reviews.json.gz"])))
    return [(row["username"], row["product_id"], row["date"]) for row in rows]


def write_taobao(source: random.Random) -> Files:
    first, odd = 1_511_539_200, (-2134949234, 44, 1_511_539_199, 1_512_316_800, 2_122_867_355)
    rows = [
        f"{user},{item},{item % 3},{('pv', 'pv', 'buy', 'cart', 'fav')[time % 5]},{first + time * 76}\n"
        for user, item, time in draw(source, length=15)
    ]
    rows += [f"{1 + number},{number},7,pv,{time}\n" for number, time in enumerate(odd)]
    source.shuffle(rows)
    return zipped("UserBehavior.csv.zip", {"UserBehavior.csv": "".join(rows).encode()})


def read_taobao(files: Files) -> Events:
    zone = timezone(timedelta(hours=8))
    first, last = (int(datetime(2017, *day, tzinfo=zone).timestamp()) for day in ((11, 25), (12, 4)))
    rows = [line.split(",") for line in lines(member(files, "UserBehavior.csv.zip", "UserBehavior.csv"))]
    events = [(user, item, int(time)) for user, item, _, kind, time in rows if kind == "pv"]
    return [event for event in events if first <= event[2] < last]


def write_gowalla(source: random.Random) -> Files:
    events = sorted(draw(source), key=lambda event: (event[0], -event[2]))
    rows = (f"{u}\t{moment(t):%Y-%m-%dT%H:%M:%SZ}\t30.23590911{i}\t-97.7951{i}\t{22847 + i}\n" for u, i, t in events)
    return {"loc-gowalla_totalCheckins.txt.gz": gzip.compress("".join(rows).encode())}


def read_gowalla(files: Files) -> Events:
    rows = [line.split("\t") for line in lines(gzip.decompress(files["loc-gowalla_totalCheckins.txt.gz"]))]
    return [(user, item, time) for user, time, _, _, item in rows]


FOURSQUARE = ("dataset_tsmc2014.zip", "dataset_tsmc2014/dataset_TSMC2014_NYC.txt")


def write_foursquare(source: random.Random) -> Files:
    names = ("Café", "Arts & Crafts Store", "Home (private)")
    rows = (
        f"{user}\t49bbd6c{item}\t4bf58d{item % 3}\t{names[item % 3]}\t40.7198{item}\t-74.0{item}\t-240\t"
        f"{moment(time):%a %b %d %H:%M:%S +0000 %Y}\n"
        for user, item, time in draw(source)
    )
    return zipped(FOURSQUARE[0], {FOURSQUARE[1]: "".join(rows).encode("latin-1")})


def read_foursquare(files: Files) -> Events:
    rows = [line.split("\t") for line in lines(member(files, *FOURSQUARE), "latin-1")]
    return [(row[0], row[1], datetime.strptime(row[7], "%a %b %d %H:%M:%S %z %Y")) for row in rows]


def write_mind(source: random.Random) -> Files:
    text = ""
    for number, (user, item, time) in enumerate(draw(source)):
        when = moment(time)
        half = "PM" if when.hour > 11 else "AM"
        hour = f"{when.month}/{when.day}/{when.year} {when.hour % 12 or 12}:{when:%M:%S} {half}"
        shown = [f"N{item}-1", *(f"N{(item + k) % 20}-{int(k == 3)}" for k in range(1, 1 + time % 4))]
        history = " ".join(f"N{k}" for k in range(user)) if user > 1 else ""
        text += f"{number}\tU{user}\t{hour}\t{history}\t{' '.join(shown)}\n"
    return zipped("MINDsmall_train.zip", {"behaviors.tsv": text.encode(), "news.tsv": b"N1\tsports\n"})


def read_mind(files: Files) -> Events:
    rows = [line.split("\t") for line in lines(member(files, "MINDsmall_train.zip", "behaviors.tsv"))]
    return [
        (user, shown[:-2], datetime.strptime(time, "%m/%d/%Y %I:%M:%S %p"))
        for _, user, time, _, impressions in rows
        for shown in impressions.split()
        if shown.endswith("-1")
    ]


def write_rees46(source: random.Random) -> Files:
    events = list(draw(source, length=15))
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    files = {}
    for month, part in (("Oct", events[::2]), ("Nov", events[1::2])):
        rows = (
            f"{moment(time):%Y-%m-%d %H:%M:%S} UTC,{('view', 'view', 'cart', 'purchase')[time % 4]},{item},21{item},"
            f"{'' if item % 2 else 'a.b'},{'' if item % 3 else 'samsung'},{item}.49,{user},d3f{user}\n"
            for user, item, time in part
        )
        files[f"2019-{month}.csv"] = (header + "".join(rows)).encode()
    return files


def read_rees46(files: Files) -> Events:
    rows = [row for data in files.values() for row in csv.DictReader(io.StringIO(data.decode()))]
    return [(row["user_id"], row["product_id"], row["event_time"]) for row in rows if row["event_type"] == "view"]


def write_yambda(source: random.Random) -> Files:
    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for user, item, time in draw(source):
        rows[user].append((time * 5, item))
    columns = {
        "uid": pl.Series(list(rows), dtype=pl.UInt32),
        "timestamp": pl.Series([[t for t, _ in row] for row in rows.values()], dtype=pl.List(pl.UInt32)),
        "item_id": pl.Series([[i for _, i in row] for row in rows.values()], dtype=pl.List(pl.UInt32)),
        "is_organic": pl.Series([[1 for _ in row] for row in rows.values()], dtype=pl.List(pl.UInt8)),
    }
    data = io.BytesIO()
    pl.DataFrame(columns).write_parquet(data)
    return {"sequential/50m/likes.parquet": data.getvalue()}


def read_yambda(files: Files) -> Events:
    rows = pl.read_parquet(io.BytesIO(files["sequential/50m/likes.parquet"])).to_dicts()
    return [
        (str(row["uid"]), str(item), time)
        for row in rows
        for item, time in zip(row["item_id"], row["timestamp"], strict=True)
    ]


def write_letter(source: random.Random) -> Files:
    histories: dict[str, list[int]] = defaultdict(list)
    for user, item, _ in draw(source):
        histories[str(user)].append(item)
    return {"Beauty.inter.json": json.dumps(histories).encode()}


def read_letter(files: Files) -> Events:
    histories = json.loads(files["Beauty.inter.json"])
    return [(user, str(item), place) for user, items in histories.items() for place, item in enumerate(items)]


def ratings_only(source: random.Random, name: str, item_first: bool) -> Files:
    text = ""
    for user, item, time in draw(source):
        first, second = (f"00{item:08}", f"A{user}X") if item_first else (f"A{user}X", f"00{item:08}")
        text += f"{first},{second},{1 + item % 5}.0,{SECONDS // 86400 * 86400 + time % 50 * 86400}\n"
    return {name: text.encode()}


def read_ratings_only(files: Files, item_first: bool) -> Events:
    rows = [line.split(",") for data in files.values() for line in lines(data)]
    return [(row[item_first], row[not item_first], int(row[3])) for row in rows]


def write_reviews(source: random.Random) -> Files:
    rows = (
        {
            "reviewerID": f"A{user}",
            "asin": f"{item:010}",
            "reviewerName": NAMES[item % 5],
            "helpful": [0, item],
            "reviewText": 'Good.\n"Really"',
            "overall": 1.0 + item % 5,
            "unixReviewTime": SECONDS // 86400 * 86400 + time % 50 * 86400,
            "reviewTime": "02 3, 2014",
        }
        for user, item, time in draw(source)
    )
    return {"reviews_Beauty_5.json.gz": gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())}


def read_reviews(files: Files) -> Events:
    rows = map(json.loads, lines(gzip.decompress(files["reviews_Beauty_5.json.gz"])))
    return [(row["reviewerID"], row["asin"], row["unixReviewTime"]) for row in rows]


LASTFM = "userid-timestamp-artid-artname-traid-traname.tsv"


def write_lastfm(source: random.Random) -> Files:
    events = sorted(draw(source, length=15), key=lambda event: (event[0], -event[2]))
    rows = (
        f"user_{u:06}\t{moment(t):%Y-%m-%dT%H:%M:%SZ}\t{'' if t % 7 == 0 else f'a{i % 4}'}\t{NAMES[i % 5]}\t"
        f'{"" if t % 5 == 0 else f"7bd{i}-x"}\t"{NAMES[i % 5]} (12" Mix)\n'
        for u, i, t in events
    )
    return {LASTFM: "".join(rows).encode()}


def read_lastfm(files: Files) -> Events:
    rows = [line.split("\t") for line in lines(files[LASTFM])]
    return [(row[0], row[4], row[1]) for row in rows if row[4]]


Published = tuple[Callable[[random.Random], Files], Callable[[Files], Events]]
PUBLISHED: dict[str, Published] = {
    "MovieLens 100K": (write_ml_100k, read_ml_100k),
    "MovieLens 1M": (
        lambda source: double_colons(source, "ml-1m.zip", "ml-1m", "latin-1", 1),
        lambda files: read_double_colons(files, "ml-1m.zip", "ml-1m"),
    ),
    "MovieLens 10M": (
        lambda source: double_colons(source, "ml-10m.zip", "ml-10M100K", "utf-8", 0.5),
        lambda files: read_double_colons(files, "ml-10m.zip", "ml-10M100K"),
    ),
    "MovieLens 20M, 25M, 32M and latest": (write_ml_25m, read_ml_25m),
    "YooChoose": (write_yoochoose, read_yoochoose),
    "DIGINETICA": (write_diginetica, read_diginetica),
    "RetailRocket": (write_retailrocket, read_retailrocket),
    "Steam": (write_steam, read_steam),
    "Taobao": (write_taobao, read_taobao),
    "Gowalla": (write_gowalla, read_gowalla),
    "Foursquare": (write_foursquare, read_foursquare),
    "MIND": (write_mind, read_mind),
    "REES46": (write_rees46, read_rees46),
    "Yambda": (write_yambda, read_yambda),
    "LETTER and TIGER": (write_letter, read_letter),
    "Amazon 2014, ratings only": (
        lambda source: ratings_only(source, "ratings_Beauty.csv", False),
        lambda files: read_ratings_only(files, False),
    ),
    "Amazon 2018, ratings only": (
        lambda source: ratings_only(source, "All_Beauty.csv", True),
        lambda files: read_ratings_only(files, True),
    ),
    "Amazon 2014 and 2018, reviews": (write_reviews, read_reviews),
    "Last.fm 1K": (write_lastfm, read_lastfm),
}
