"""Sentences of a voice agent's day: requests, questions, numbers, dates, names, small talk.

Templates whose slots are filled from word lists, plus word salad that gives every word its share
of occurrences. Everything is written as Parakeet v2 writes it (capitals, commas, stops), numbers
as words. :func:`is_held_out` decides by a hash which sentences are never trained on.
"""

from __future__ import annotations

import hashlib
import random
import re

_LISTS = """
name: Nadia Omar Elena Victor Sofia Marcus Hannah Oliver Priya Daniel Amelia Robert Julia Samuel
  Clara Henry Maria Thomas Laura George Alice Peter Emma Walter Nina Oscar Rosa Felix Ingrid Hugo
  Leah Simon Vera Martin Ruth Adam Diana Edward Fiona Gloria Patrick Sandra Teresa Vincent Wanda
  Yolanda Zachary Beatrice Charlotte Dominic
surname: Carter Bennett Foster Hughes Morgan Parker Russell Sullivan Turner Watson Coleman Fisher
  Griffin Harrison Jenkins Kennedy Lawson Mitchell Newton Patterson
city: London Paris Berlin Madrid Boston Chicago Dallas Denver Seattle Toronto Lisbon Vienna Dublin
  Oslo Prague Tokyo Sydney Houston Atlanta Miami Phoenix Orlando Calgary Geneva Athens Warsaw
  Helsinki Montreal
weekday: Monday Tuesday Wednesday Thursday Friday Saturday Sunday
month: January February March April May June July August September October November December
ordinal: first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
  thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
digit: one two three four five six seven eight nine
teen: ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
tens: twenty thirty forty fifty sixty seventy eighty ninety
color: red blue green yellow black white purple orange brown silver golden pink
food: pizza pasta salad soup sandwich burger chicken salmon rice noodles curry pancakes omelet
  steak cheese bread butter tomatoes potatoes onions mushrooms carrots spinach apples bananas
  lemons strawberries cookies chocolate yogurt broccoli cabbage lettuce garlic pepper lobster
  sausage bacon honey vanilla raspberries pumpkin almonds
drink: cider coffee tea water juice lemonade milk soda espresso smoothie cocoa
room: kitchen bedroom bathroom garage office hallway basement garden attic balcony
device: lamp heater fan oven television radio speaker camera thermostat printer laptop phone alarm
  dishwasher vacuum sprinkler doorbell monitor keyboard router
thing: jacket umbrella backpack wallet bicycle blanket pillow mirror notebook pencil bottle ticket
  package letter camera guitar helmet suitcase bracelet sweater towel candle basket hammer ladder
  battery cable charger magazine envelope telescope necklace keyring scarf gloves raincoat lantern
  curtain carpet drawer cupboard
place: library museum airport station hospital pharmacy bakery supermarket restaurant hotel
  theater stadium school university bank park beach gallery market harbor cathedral stable cinema
  castle
job: doctor dentist lawyer plumber electrician teacher manager engineer nurse mechanic architect
  accountant gardener painter reporter carpenter librarian pilot surgeon
vehicle: taxi train bus ferry truck van tractor helicopter
animal: dog cat horse rabbit parrot turtle hamster goldfish elephant monkey penguin tiger giraffe
  dolphin squirrel
weather: sunny rainy cloudy windy foggy snowy stormy humid
mood: happy tired hungry thirsty busy nervous excited worried relaxed bored
adjective: big small heavy cheap expensive comfortable beautiful quiet noisy broken empty fresh
  modern ancient simple difficult important private public wonderful terrible strange familiar
  gentle sharp smooth narrow perfect useful local fragile dangerous delicious colorful elegant
  massive ordinary
adverb: quickly slowly carefully quietly immediately probably definitely usually finally recently
  suddenly exactly
verb: open close clean check fix move lock find paint repair wash carry borrow deliver order buy
  sell return replace remove cancel change update copy print measure inspect polish collect
  describe explain
action: dance swim travel cook study exercise sing fish hike paint practice sleep
subject: history science music geography chemistry physics biology poetry economics philosophy
  mathematics grammar astronomy geology literature
sport: tennis football basketball hockey golf baseball volleyball cricket badminton rugby
event: meeting appointment interview concert wedding party birthday conference lesson breakfast
  lunch dinner workshop ceremony festival picnic exhibition rehearsal seminar
body: shoulder knee elbow finger stomach ankle
unit: minutes hours days weeks months years dollars euros pounds miles meters gallons
relation: mother father brother sister uncle cousin neighbor friend daughter colleague grandmother
  grandfather nephew husband roommate
problem: leak noise bug hole crack smell scratch virus shadow stain
account: savings checking business credit travel
document: proposal agenda brochure invoice contract report receipt passport license certificate
  agreement
part: account payment password address number subscription reservation balance insurance delivery
genre: jazz rock classical country folk blues
"""

_TEMPLATES = """
Turn on the {device} in the {room}.
Turn off the {device} in the {room}, please.
Please turn {up} the {device}.
Set the {device} to {number} percent.
Set an alarm for {time}.
Set a timer for {number} {unit}.
Remind me to {verb} the {thing} on {weekday}.
Remind me to call {name} at {time}.
Could you {verb} the {adjective} {thing}?
Can you {verb} my {thing} {adverb}?
Would you please {verb} the {document}?
I would like to {verb} the {color} {thing}.
I want to order {number} {food} and some {drink}.
I would like a {food} with {food} and a cup of {drink}.
Do you have {food} without {food}?
Could I have the {food} and a glass of {drink}, please?
What is the weather like in {city} today?
Will it be {weather} in {city} on {weekday}?
It is very {weather} and {weather} here this morning.
How far is it from {city} to {city}?
I need a {vehicle} from the {place} to the {place}.
When does the next {vehicle} to {city} leave?
Book a flight to {city} on {month} {ordinal}.
I am flying from {city} to {city} next {weekday}.
My name is {name} {surname}.
Hello, this is {name} {surname} from {city}.
Hi, my name is {name}, and I live in {city}.
My name is {spelled}.
That is spelled {letters}.
My last name is {surname}, and my first name is {name}.
The code is {letters}, {digits}.
My phone number is {digits}, {digits}.
The number is {digits}.
Is that {letter} as in {name}?
My birthday is on {month} {ordinal}.
The {event} is on {weekday}, {month} {ordinal}.
Move the {event} from {weekday} to {weekday}.
Cancel my {event} with {name} on {month} {ordinal}.
Schedule a {event} with {name} at {time}.
I have an appointment with the {job} at {time}.
Can we meet at the {place} at {time}?
Who is coming to the {event} on {weekday}?
Where is the nearest {place}?
Is the {place} open on {weekday}?
Which {vehicle} goes to the {place}?
No, I said {number}, not {number}.
No, not {city}, I meant {city}.
Sorry, I meant {weekday}, not {weekday}.
Actually, make that {number} {food}.
Wait, change it to {time}, please.
I said {name}, not {name}.
How are you today?
I am fine, thank you.
I feel {mood} and a little {mood} today.
Are you {mood} or {mood}?
Thank you very much for your help.
Good morning, how can I help you?
Good evening, {name}.
See you on {weekday}.
Yes, that is right.
No, that is wrong.
Yes, please.
No, thank you.
Okay, let us begin.
Never mind, I will call again later.
Could you repeat that more slowly?
I did not understand the question.
What time is it in {city}?
What did you say about the {thing}?
How much does the {adjective} {thing} cost?
It costs {number} {unit}.
That will be {number} dollars and {number} cents.
The {thing} is too {adjective} for me.
This {adjective} {thing} looks {adjective} and {adjective}.
I think the {device} in the {room} is broken.
There is a {adjective} {problem} in the {room}.
The {job} will fix the {problem} {adverb}.
My {relation} is a {job} in {city}.
My {relation} has a {color} {animal}.
Our {animal} is {adjective} and {mood}.
Do you like the {color} {animal} or the {color} one?
I like to {action} and {action} every {weekday}.
Did {name} {action} with you yesterday?
We play {sport} near the {place} every {weekday}.
She is studying {subject} and {subject} at the {place}.
Tell me something about {subject}.
Play some {genre} music in the {room}.
Who won the {sport} game last night?
My {body} hurts when I {action}.
The {job} looked at my {body} and my {body}.
I lost my {thing} at the {place}.
Please send the {document} to {name} {surname}.
I have not received the {document} yet.
What is the balance of my {account} account?
Transfer {number} dollars to my {account} account.
I forgot my {part} and need a new one.
Please update my {part} before {weekday}.
I have a question about my {part} and my {part}.
How many {unit} are there until {month}?
It takes about {number} {unit} to get there.
{name} will arrive at the {place} in {number} {unit}.
{name} and {name} are waiting at the {place}.
He left the {thing} under the {thing}.
They keep the {thing} behind the {device}.
Put the {thing} between the {thing} and the {device}.
Why is the {device} so {adjective}?
Because the {thing} was {adjective}, we had to {verb} it.
If it is {weather} tomorrow, we should stay at the {place}.
I will {adverb} {verb} it.
You should {adverb} {verb} the {part}.
We went there {adverb} in {month}.
Read me the {adjective} message from {name}.
Write a message to my {relation}.
Call my {relation} right now.
Can I speak with the {job}?
Maybe we could {verb} it together.
The {event} was {adjective}, but also {adjective}.
Add {food} and {food} to my shopping list.
What is on my calendar for {month} {ordinal}?
Are there any {color} or {color} ones left?
Every {thing} must be {color}.
Stop.
Go on.
Of course.
Help me, please.
That sounds good to me.
I do not know yet.
Let me think about it.
Just a moment, please.
What else do you need?
Nothing else, goodbye.
"""

_CONNECTIVE = "Well Anyway However Then Also And But So"

LETTER_NAMES = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "ay bee see dee ee eff gee aitch eye jay kay el em en oh pea cue are ess tee you vee "
        "double-you ex why zee".split(),
        strict=True,
    )
)
"""How synthesisers are made to say a letter; an upper-case A alone is read as the article."""


def _read_lists() -> dict[str, list[str]]:
    entries = re.findall(r"^(\w+):((?:.*\n)(?:  .*\n)*)", _LISTS, re.MULTILINE)
    return {name: words.split() for name, words in entries}


LISTS = _read_lists()
TEMPLATES = [line for line in _TEMPLATES.splitlines() if line]


class Sentences:
    """A seeded source of sentences.

    Args:
        seed: The same seed gives the same sentences.
        salad: Share of random words in place of a template.
    """

    def __init__(self, seed: int, salad: float = 0.2) -> None:
        self._random = random.Random(seed)
        self._salad = salad
        self._words = vocabulary()

    def __call__(self) -> str:
        """One sentence."""
        if self._random.random() < self._salad:
            return self._word_salad()
        sentence = self._fill(self._random.choice(TEMPLATES))
        if self._random.random() < 0.05:
            opening = self._random.choice(_CONNECTIVE.split())
            first, rest = sentence.split(" ", 1) if " " in sentence else (sentence, "")
            keep = first in ("I", *LISTS["name"]) or len(first) == 1
            sentence = f"{opening}, {first if keep else first.lower()} {rest}".strip()
        return sentence

    def _fill(self, template: str) -> str:
        text = re.sub(r"\{(\w+)\}", lambda match: self._slot(match[1]), template)
        return text[0].upper() + text[1:]

    def _slot(self, slot: str) -> str:
        choose = self._random.choice
        match slot:
            case "number":
                return self._number()
            case "time":
                hour = choose(LISTS["digit"] + LISTS["teen"][:3])
                minute = choose(["", " fifteen", " thirty", " forty five", " o'clock"])
                return hour + minute + choose(["", " in the morning", " in the evening"])
            case "up":
                return choose(["up", "down"])
            case "letter":
                return choose(list(LETTER_NAMES))
            case "letters":
                return " ".join(choose(list(LETTER_NAMES)) for _ in range(choose([2, 3, 4])))
            case "digits":
                digits = [*LISTS["digit"], "zero"]
                return " ".join(choose(digits) for _ in range(choose([3, 4])))
            case "spelled":
                name = choose(LISTS["name"])
                return f"{name}, {' '.join(name.upper())}"
            case _:
                return choose(LISTS[slot])

    def _number(self) -> str:
        choose = self._random.choice
        match self._random.randrange(5):
            case 0:
                return choose(LISTS["digit"])
            case 1:
                return choose(LISTS["teen"])
            case 2:
                return choose(LISTS["tens"])
            case 3:
                return f"{choose(LISTS['tens'])} {choose(LISTS['digit'])}"
            case _:
                return f"{choose(LISTS['digit'])} {choose(['hundred', 'thousand'])}"

    def _word_salad(self) -> str:
        words = [self._random.choice(self._words) for _ in range(self._random.randint(2, 7))]
        if len(words) > 4 and self._random.random() < 0.3:
            words[2] += ","
        text = " ".join(words) + self._random.choice([".", ".", "?"])
        return text[0].upper() + text[1:]


def vocabulary() -> list[str]:
    """Every word that sentences can hold, spelled as in the middle of a sentence."""
    proper = {"I", *LISTS["name"], *LISTS["surname"], *LISTS["city"], *LISTS["weekday"]}
    proper |= set(LISTS["month"])
    words = {word for group in LISTS.values() for word in group}
    words |= {"zero", "hundred", "thousand", "o'clock", "up", "down"}
    for text in (*TEMPLATES, _CONNECTIVE):
        for word in re.findall(r"[\w']+", re.sub(r"\{\w+\}", " ", text)):
            words.add(word if word in proper else word.lower())
    return sorted(word for word in words if len(word) > 1 or word in ("I", "a"))


def spoken(text: str) -> str:
    """The text as a synthesiser should be given it: letters by their names."""
    return re.sub(
        r"\b([A-Z])\b(?!')",
        lambda match: match[1] if _is_pronoun(text, match) else LETTER_NAMES[match[1]],
        text,
    )


def _is_pronoun(text: str, match: re.Match[str]) -> bool:
    """Whether a lone I or A is a word: it is a letter only beside other letters or as 'I as in'."""
    if match[1] not in "IA":
        return False
    before, after = text[: match.start()], text[match.end() :]
    beside = re.search(r"\b[A-Z]\s$", before) or re.match(r"\s[A-Z]\b(?!\w)", after)
    return not (beside or after.startswith(" as in"))


def normalise(text: str) -> str:
    """Lower case, without punctuation: what word errors are counted on."""
    return " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())


def is_held_out(text: str) -> bool:
    """Whether a sentence is kept from training: one in ten, by its words."""
    digest = hashlib.sha256(normalise(text).encode()).digest()
    return len(normalise(text).split()) >= 4 and digest[0] < 26
