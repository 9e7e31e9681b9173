"""The word lists of the demo grammar: what reviews are about, and the words that praise or blame it.

A noun that ends in `+` is a plural, and `_` stands for a space. Within a list the first words are the most frequent.
"""

from dataclasses import dataclass

__all__ = ["BAD", "DOMAINS", "GOOD", "Aspect", "Domain"]


@dataclass(frozen=True, kw_only=True)
class Aspect:
    """Nouns that share the adjectives by which they are judged."""

    nouns: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One kind of thing that is reviewed, with its own vocabulary."""

    name: str
    things: tuple[str, ...]
    used: tuple[str, ...]  # verb phrases that take the thing as their object: "we watched the film"
    good: tuple[str, ...]
    bad: tuple[str, ...]
    aspects: tuple[Aspect, ...]
    turning: tuple[Aspect, ...]  # adjectives that praise one noun and blame another: cold beer, cold soup


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


def _aspects(table: str) -> tuple[Aspect, ...]:
    """Read lines of the form `nouns | good adjectives | bad adjectives`."""
    rows = [[_words(cell) for cell in line.split("|")] for line in table.strip().splitlines()]
    return tuple(Aspect(nouns=nouns, good=good, bad=bad) for nouns, good, bad in rows)


def _domain(name: str, things: str, used: str, good: str, bad: str, aspects: str, turning: str) -> Domain:
    return Domain(
        name=name,
        things=_words(things),
        used=_words(used),
        good=_words(good),
        bad=_words(bad),
        aspects=_aspects(aspects),
        turning=_aspects(turning),
    )


GOOD = _words(
    "great good excellent wonderful superb lovely fantastic brilliant impressive delightful amazing splendid fine "
    "marvelous outstanding pleasant remarkable terrific perfect magnificent solid enjoyable"
)
BAD = _words(
    "bad awful terrible poor disappointing dreadful horrible mediocre dull lousy annoying dismal weak boring shoddy "
    "unpleasant pathetic atrocious abysmal frustrating sad forgettable"
)

DOMAINS = (
    _domain(
        "film",
        "film movie thriller comedy drama documentary western sequel",
        "watched saw rented streamed",
        "gripping moving funny thrilling touching stylish",
        "tedious pretentious bland shallow noisy lifeless",
        """
        plot story script storyline premise | clever gripping original tense inventive \
            | predictable muddled silly hollow absurd
        acting cast lead villain hero | convincing moving charming subtle believable | wooden stiff flat hammy lifeless
        soundtrack music score photography | haunting stylish stirring elegant | tedious grating bland generic
        jokes+ scenes+ effects+ dialogues+ | funny witty memorable inspired | stale crude lame forced
        """,
        """
        plot script | unpredictable deep | thin light
        pacing | quick | slow
        runtime opening | short | long
        humor | dry sharp | heavy
        """,
    ),
    _domain(
        "book",
        "book novel memoir biography mystery romance anthology",
        "read finished borrowed",
        "gripping moving witty thoughtful absorbing rich",
        "tedious shallow clumsy pretentious dreary confusing",
        """
        plot story mystery twist ending | clever gripping surprising satisfying original \
            | predictable absurd confusing rushed hollow
        prose style writing translation | elegant vivid crisp lyrical | clumsy stilted dreary wordy
        characters+ chapters+ descriptions+ dialogues+ | vivid believable memorable thoughtful \
            | shallow stale flat tiresome
        author narrator heroine | witty thoughtful sympathetic honest | smug tiresome preachy irritating
        """,
        """
        chapters+ sentences+ | short sharp | long heavy
        twist | unpredictable | slow
        plot argument | deep | thin light
        humor | dry dark | heavy
        """,
    ),
    _domain(
        "restaurant",
        "restaurant diner bistro pizzeria grill steakhouse canteen",
        "visited tried booked",
        "cozy welcoming charming inviting lively authentic",
        "dirty noisy cramped overpriced shabby gloomy",
        """
        food pizza pasta steak dinner curry | delicious tasty fresh juicy flavorful | bland greasy stale soggy tasteless
        waiter waitress chef staff | friendly polite attentive helpful | rude careless unfriendly arrogant
        dishes+ desserts+ noodles+ vegetables+ | tasty delicious fresh crunchy | bland soggy burnt tasteless
        menu terrace decor | inviting varied tasteful charming | dreary limited shabby dated
        """,
        """
        soup stew | hot thick | cold thin
        salad melon | cold light | warm heavy
        wait | short | long
        portions+ | big | small light
        bill | small | big
        bread | soft warm | hard dry
        crust | thin light | thick hard
        cake turkey | light soft | dry heavy
        service | quick | unpredictable slow
        """,
    ),
    _domain(
        "bar",
        "bar pub cafe tavern teahouse bakery",
        "visited tried discovered",
        "cozy lively welcoming relaxed charming friendly",
        "dirty stuffy crowded gloomy overpriced smelly",
        """
        tea cider cocktail pastry muffin | delicious tasty refreshing smooth flavorful \
            | bitter stale watery sour tasteless
        barista bartender owner staff | friendly cheerful helpful attentive | rude grumpy careless unfriendly
        snacks+ cookies+ sandwiches+ cakes+ | tasty fresh crunchy delicious | stale soggy greasy bland
        atmosphere decor patio | relaxed inviting cheerful cozy | gloomy stuffy shabby chaotic
        """,
        """
        beer lemonade | cold light | warm thin
        coffee | hot strong | cold thin
        wine | dry cold | warm heavy
        drinks+ | strong big | small warm
        music | quiet soft | loud hard
        line wait | short quick | long slow
        """,
    ),
    _domain(
        "hotel",
        "hotel inn resort hostel lodge motel guesthouse",
        "booked chose visited",
        "clean cozy luxurious comfortable peaceful welcoming",
        "dirty shabby overpriced noisy moldy smelly",
        """
        lobby bathroom garden balcony suite | clean spacious bright tidy comfortable | dirty cramped moldy shabby smelly
        receptionist manager porter staff | friendly helpful polite efficient | rude careless unfriendly clueless
        breakfast buffet brunch | fresh generous tasty varied | stale limited bland greasy
        beds+ pillows+ carpets+ windows+ | comfortable clean spotless tidy | filthy lumpy dusty broken
        """,
        """
        room | warm quiet big | cold dark small
        walls+ towels+ | thick dry | thin
        bed mattress | soft big | hard small
        neighbors+ | quiet | loud
        shower | hot strong | cold
        pool | warm deep | cold small
        smell | light | strong heavy
        walk | short | long
        """,
    ),
    _domain(
        "gadget",
        "phone laptop tablet camera headset printer keyboard watch",
        "bought ordered tried returned",
        "reliable handy sturdy sleek responsive versatile",
        "flimsy clunky unreliable overpriced useless fragile",
        """
        screen display touchpad lens | crisp responsive vivid bright | blurry dim laggy scratched
        software app interface setup | intuitive stable smooth polished | buggy clunky confusing bloated
        support warranty packaging manual | helpful clear thorough prompt | useless vague careless misleading
        buttons+ hinges+ cables+ keys+ | sturdy precise durable responsive | flimsy wobbly sticky loose
        """,
        """
        battery_life | long | short
        case body | light thin | heavy thick
        speakers+ alarm | loud strong | quiet
        fan motor | quiet | loud
        screen | sharp big | dark small
        edges+ corners+ | soft | sharp hard
        charger | quick light | hot slow
        image | sharp | dark soft
        """,
    ),
    _domain(
        "show",
        "concert musical opera play festival gig recital",
        "attended saw visited",
        "thrilling moving lively stirring electric joyful",
        "tedious chaotic lifeless overlong dreary noisy",
        """
        singer band orchestra drummer choir | lively energetic charismatic passionate | sloppy lifeless bored clumsy
        venue stage lighting sound | spectacular clear stunning atmospheric | murky muffled cramped distorted
        songs+ costumes+ dances+ melodies+ | catchy stunning stirring joyful | stale tacky clumsy tiresome
        audience crowd host | cheerful friendly enthusiastic polite | rude drunk bored hostile
        """,
        """
        line interval | short quick | long slow
        seats+ | soft big | hard small
        set encore | long loud | short quiet
        hall tent | warm big | hot cold
        voice | deep strong warm | thin
        """,
    ),
    _domain(
        "trip",
        "trip tour cruise flight safari excursion holiday",
        "booked took joined",
        "relaxing scenic unforgettable exciting restful varied",
        "exhausting stressful chaotic overpriced tiring overcrowded",
        """
        guide driver captain crew | friendly knowledgeable cheerful helpful | rude impatient clueless grumpy
        scenery view route coast | stunning scenic spectacular peaceful | dreary ugly polluted monotonous
        cabin coach boat ferry | comfortable clean spacious modern | dirty cramped rusty smelly
        meals+ stops+ activities+ excursions+ | varied exciting generous fun | rushed limited pointless tiring
        """,
        """
        delay queue | short | long
        weather | warm dry | cold unpredictable hot
        luggage | light small | heavy
        engine | quiet strong | loud
        seat | soft big | hard small
        water | warm | cold dark
        climb | quick short | hard long
        """,
    ),
)
