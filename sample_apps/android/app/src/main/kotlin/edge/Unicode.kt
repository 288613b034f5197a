package edge

/** What the `tokenizers` library does to each character, from unicode.txt: the tables of Android differ from release to release, these do not. */
internal object Unicode {
    private val tables: Map<String, Table> = read()
    val space = tables.getValue("SPACE")
    val cleanedToSpace = tables.getValue("CLEANED_TO_SPACE")
    val dropped = tables.getValue("DROPPED")
    val ideograph = tables.getValue("IDEOGRAPH")
    val punctuation = tables.getValue("PUNCTUATION")
    val mark = tables.getValue("MARK")
    private val orders = tables.getValue("ORDER")
    private val pairs = tables.getValue("STRIPPED")
    private val several = tables.getValue("STRIPPED_TO_SEVERAL")
    private val runs = tables.getValue("SMALL")

    /** Rows sorted by their first number, a character. */
    class Table(private val rows: List<IntArray>) {
        private val firsts = IntArray(rows.size) { rows[it][0] }

        /** The row that begins with `code`, or null. */
        fun exact(code: Int): IntArray? = firsts.binarySearch(code).let { if (it >= 0) rows[it] else null }

        /** The row whose first to second number hold `code`, or null. */
        fun around(code: Int): IntArray? {
            val found = firsts.binarySearch(code)
            val row = rows.getOrNull(if (found >= 0) found else -found - 2) ?: return null
            return if (code <= row[1]) row else null
        }

        operator fun contains(code: Int): Boolean = around(code) != null
    }

    /** Canonical combining class. */
    fun order(code: Int): Int = orders.around(code)?.get(2) ?: 0

    /** The small letter of a capital; U+0130, whose small form is two characters, is not among them. */
    fun small(code: Int): Int {
        val (first, _, step, shift) = runs.around(code) ?: return code
        return if ((code - first) % step == 0) code + shift else code
    }

    /** What stripping accents leaves of one character: canonical decomposition without its non-spacing marks. */
    fun stripped(code: Int): IntArray {
        val syllable = code - 0xAC00 // Hangul: The Unicode Standard, 3.12
        if (syllable in 0 until 11172) {
            val parts = intArrayOf(0x1100 + syllable / 588, 0x1161 + syllable % 588 / 28)
            return if (syllable % 28 == 0) parts else parts + (0x11A7 + syllable % 28)
        }
        if (code in mark) return intArrayOf()
        pairs.exact(code)?.let { return intArrayOf(it[1]) }
        several.exact(code)?.let { return it.copyOfRange(1, it.size) }
        return intArrayOf(code)
    }

    private fun read(): Map<String, Table> {
        val rows = LinkedHashMap<String, MutableList<IntArray>>()
        val file = Unicode::class.java.getResourceAsStream("/unicode.txt") ?: error("unicode.txt is not in the app")
        for (line in file.bufferedReader().readLines()) {
            val words = line.substringBefore('#').trim().split(' ').filter { it.isNotEmpty() }
            if (words.isEmpty()) continue
            if (words[0][0].isLetter()) rows[words[0]] = mutableListOf()
            else rows.values.last() += words.map { row -> row.split(',').map(String::toInt).toIntArray() }
        }
        return rows.mapValues { Table(it.value) }
    }
}
