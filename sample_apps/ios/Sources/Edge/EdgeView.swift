import SwiftUI

/// A question above, the answer and its time on this device below. At its foot: do the golden vectors hold here?
public struct EdgeView: View {
    @State private var question = ""
    @State private var answer: Edge.Answer?
    @State private var foot = "Loading …"
    @State private var edge: Edge?

    public init() {}

    public var body: some View {
        VStack(alignment: .leading, spacing: 24) {
            TextField("Type something", text: $question, axis: .vertical)
                .textFieldStyle(.roundedBorder)
            if let answer {
                Text(answer.said).font(.largeTitle)
                Text(detail(answer)).foregroundStyle(.secondary)
            }
            Spacer()
            Text(foot).font(.footnote).foregroundStyle(.secondary)
        }
        .padding()
        .task { await open() }
        .task(id: question) { await ask() }
    }

    private func detail(_ answer: Edge.Answer) -> String {
        let time = String(format: "%.2f ms on this device", answer.milliseconds)
        return answer.confidence.map { String(format: "%.0f %% sure · ", 100 * $0) + time } ?? time
    }

    private func open() async {
        do {
            let opened = try Edge()
            switch try await opened.check() {
            case let .equal(vectors): foot = "All \(vectors) golden vectors are equal on this device."
            case let .differs(vector, text): foot = "This device answers otherwise than the bundle: vector \(vector), \"\(text.prefix(40))\"."
            }
            edge = opened
        } catch {
            foot = "The bundle cannot be used: \(error.localizedDescription)"
        }
    }

    private func ask() async {
        guard !question.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty else {
            answer = nil
            return
        }
        answer = try? await edge?.ask(question)
    }
}
