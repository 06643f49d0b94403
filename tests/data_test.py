"""The texts under data/ are what data/README.md says."""

import pathlib
import unittest

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
PLANTED = "The number of the safe at Baker Street is 48215."


def paragraphs(name: str) -> list:
    return (DATA / name).read_text(encoding="utf-8").rstrip("\n").split("\n\n")


class Texts(unittest.TestCase):
    def test_the_planted_text_is_the_plain_one_and_one_paragraph(self):
        plain, planted = paragraphs("a_scandal_in_bohemia.txt"), paragraphs("a_scandal_in_bohemia_with_number.txt")
        at = planted.index(PLANTED)
        self.assertEqual(planted[:at] + planted[at + 1:], plain)
        share = len("".join(planted[:at])) / len("".join(plain))
        self.assertAlmostEqual(share, 0.4, delta=0.02)

    def test_the_plain_text_holds_the_answer_and_not_the_number(self):
        text = "\n\n".join(paragraphs("a_scandal_in_bohemia.txt"))
        self.assertIn("Irene Adler", text)
        self.assertNotIn("48215", text)

    def test_every_text_is_described(self):
        readme = (DATA / "README.md").read_text(encoding="utf-8")
        for path in DATA.glob("*.txt"):
            self.assertIn(f"`{path.name}`", readme)


if __name__ == "__main__":
    unittest.main()
