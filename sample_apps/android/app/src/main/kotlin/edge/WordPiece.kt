package edge

import org.json.JSONArray
import org.json.JSONObject

/**
 * WordPiece, as BERT cuts text (arXiv:1609.08144): reads the tokenizer.json of a bundle and gives the ids that the tokenizers library gives.
 *
 * Throws IllegalArgumentException for a tokenizer of another kind: wrong ids would look like answers.
 */
class WordPiece(file: JSONObject, private val maxTokens: Int) {
    private class Added(val content: IntArray, val id: Long, val eatsLeft: Boolean, val eatsRight: Boolean)

    private val cleans: Boolean
    private val ideographsAlone: Boolean
    private val lowercases: Boolean
    private val strips: Boolean
    private val continuing: String
    private val longestWord: Int
    private val vocabulary = HashMap<String, Long>()
    private val longestPiece: Int
    private val unknown: Long
    private val added = ArrayList<Added>()
    private val before = ArrayList<Long>() // the special tokens around every text
    private val after = ArrayList<Long>()

    init {
        val model = file.getJSONObject("model")
        val normalizer = file.optJSONObject("normalizer")
        if (model.optString("type") != "WordPiece") refuse("a model of type ${model.optString("type")}")
        if (normalizer?.optString("type") != "BertNormalizer") refuse("a normalizer of type ${normalizer?.optString("type")}")
        val cutter = file.optJSONObject("pre_tokenizer")?.optString("type")
        if (cutter != "BertPreTokenizer") refuse("a pre-tokenizer of type $cutter")
        cleans = normalizer.optBoolean("clean_text", true)
        ideographsAlone = normalizer.optBoolean("handle_chinese_chars", true)
        lowercases = normalizer.optBoolean("lowercase", true)
        strips = if (normalizer.isNull("strip_accents")) lowercases else normalizer.getBoolean("strip_accents")

        continuing = model.getString("continuing_subword_prefix")
        longestWord = model.getInt("max_input_chars_per_word")
        val pieces = model.getJSONObject("vocab")
        for (key in pieces.keys()) key.toString().let { vocabulary[it] = pieces.getLong(it) }
        longestPiece = vocabulary.keys.maxOf { it.length }
        unknown = vocabulary.getValue(model.getString("unk_token"))

        for (token in file.getJSONArray("added_tokens").objects()) {
            val content = token.getString("content")
            if (token.getBoolean("normalized")) refuse("an added token that is looked for in normalized text ($content)")
            if (token.getBoolean("single_word")) refuse("an added token that must be a word ($content)")
            if (content.isNotEmpty()) added += Added(characters(content), token.getLong("id"), token.getBoolean("lstrip"), token.getBoolean("rstrip"))
        }
        added.sortByDescending { it.content.size } // the longest that fits is the first found
        readEnds(file.optJSONObject("post_processor"))
    }

    private fun readEnds(ends: JSONObject?) {
        when (val kind = ends?.getString("type")) {
            null -> return
            "BertProcessing" -> {
                before += ends.getJSONArray("cls").getLong(1)
                after += ends.getJSONArray("sep").getLong(1)
            }
            "TemplateProcessing" -> {
                var side = before
                for (part in ends.getJSONArray("single").objects()) {
                    if (part.has("Sequence")) {
                        side = after
                        continue
                    }
                    val name = part.getJSONObject("SpecialToken").getString("id")
                    val ids = ends.getJSONObject("special_tokens").getJSONObject(name).getJSONArray("ids")
                    for (place in 0 until ids.length()) side += ids.getLong(place)
                }
            }
            else -> refuse("a post-processor of type $kind")
        }
    }

    /** Token ids, cut off so that there are at most maxTokens with the special tokens. */
    fun encode(text: String): LongArray {
        val chars = characters(text)
        val ids = ArrayList<Long>()
        // Added tokens are looked for in the bare text; what lies between them is normalized and cut into words, each stretch for itself.
        var begin = 0
        var at = 0
        while (at < chars.size) {
            val token = added.firstOrNull { matches(chars, at, it.content) }
            if (token == null) {
                at++
                continue
            }
            var start = at
            var stop = at + token.content.size
            while (token.eatsLeft && start > begin && chars[start - 1] in Unicode.space) start--
            while (token.eatsRight && stop < chars.size && chars[stop] in Unicode.space) stop++
            addWords(normalized(chars, begin, start), ids)
            ids += token.id
            begin = stop
            at = stop
        }
        addWords(normalized(chars, begin, chars.size), ids)
        val room = maxOf(0, maxTokens - before.size - after.size)
        return (before + ids.take(room) + after).toLongArray()
    }

    private fun normalized(chars: IntArray, begin: Int, end: Int): IntArray {
        val spread = Characters()
        for (place in begin until end) {
            var code = chars[place]
            if (cleans) {
                if (code in Unicode.dropped) continue
                if (code in Unicode.cleanedToSpace) code = ' '.code
            }
            val alone = ideographsAlone && code in Unicode.ideograph
            if (alone) spread += ' '.code
            spread += code
            if (alone) spread += ' '.code
        }
        val bare = if (strips) withoutAccents(spread) else spread
        if (!lowercases) return bare.array()
        val small = Characters()
        for (place in 0 until bare.size) {
            val code = bare[place]
            if (code == 0x130) { // the one capital whose small form is two characters
                small += 'i'.code
                small += 0x307
            } else {
                small += Unicode.small(code)
            }
        }
        return small.array()
    }

    /** Marks that stay come into canonical order (The Unicode Standard, 3.11): by class, within a run that any character of class 0 ends. */
    private fun withoutAccents(chars: Characters): Characters {
        val bare = Characters()
        var run = 0
        fun settle() {
            bare.sortFrom(run) { Unicode.order(it) }
            run = bare.size
        }
        for (place in 0 until chars.size) {
            val code = chars[place]
            val parts = Unicode.stripped(code)
            if (parts.isEmpty() && Unicode.order(code) == 0) settle()
            for (part in parts) {
                val starts = Unicode.order(part) == 0
                if (starts) settle()
                bare += part
                if (starts) run = bare.size
            }
        }
        settle()
        return bare
    }

    private fun addWords(chars: IntArray, ids: MutableList<Long>) {
        var word = 0
        for (place in 0..chars.size) {
            val end = place == chars.size
            val alone = !end && chars[place] in Unicode.punctuation
            if (!end && !alone && chars[place] !in Unicode.space) continue
            if (place > word) addWord(chars, word, place, ids)
            if (alone) addWord(chars, place, place + 1, ids)
            word = place + 1
        }
    }

    /** Takes the longest piece of the vocabulary from the front, again and again; a word of which any part is in no piece is unknown as a whole. */
    private fun addWord(chars: IntArray, begin: Int, end: Int, ids: MutableList<Long>) {
        val found = ArrayList<Long>()
        var start = begin
        while (start < end && end - begin <= longestWord) {
            val piece = StringBuilder(if (start == begin) "" else continuing)
            val sizes = ArrayList<Int>() // of the piece with one character more each
            var place = start
            while (place < end && piece.length < longestPiece) {
                piece.appendCodePoint(chars[place++])
                sizes += piece.length
            }
            while (sizes.isNotEmpty()) {
                piece.setLength(sizes.last())
                val id = vocabulary[piece.toString()]
                if (id != null) {
                    found += id
                    break
                }
                sizes.removeAt(sizes.size - 1)
            }
            if (sizes.isEmpty()) break
            start += sizes.size
        }
        if (start < end) ids += unknown else ids += found
    }

    private fun matches(chars: IntArray, at: Int, content: IntArray): Boolean =
        at + content.size <= chars.size && content.indices.all { chars[at + it] == content[it] }

    private fun refuse(what: String): Nothing =
        throw IllegalArgumentException("the tokenizer has $what, which this app does not know: it reads BERT's WordPiece")
}

internal fun JSONArray.objects(): List<JSONObject> = (0 until length()).map(::getJSONObject)

private fun characters(text: String): IntArray = text.codePoints().toArray()

/** A list of characters that does not box them. */
private class Characters {
    private var items = IntArray(64)
    var size = 0
        private set

    operator fun get(place: Int): Int = items[place]

    operator fun plusAssign(code: Int) {
        if (size == items.size) items = items.copyOf(2 * size)
        items[size++] = code
    }

    /** Sorts what stands from `begin` on by a key; equal ones stay in their order. Such runs are a few marks long. */
    fun sortFrom(begin: Int, key: (Int) -> Int) {
        for (place in begin + 1 until size) {
            val code = items[place]
            var hole = place
            while (hole > begin && key(items[hole - 1]) > key(code)) {
                items[hole] = items[hole - 1]
                hole--
            }
            items[hole] = code
        }
    }

    fun array(): IntArray = items.copyOf(size)
}
